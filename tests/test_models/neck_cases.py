"""Small necks, and pyramids of streams with invalid places."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmseg_xmodal.models.layers.stacked_levels import stack_streams
from mmseg_xmodal.registry import MODELS

from .helpers import rand, randomise

CHANNELS = [8, 16]
STREAMS = {
    'cross': dict(type='mmseg_xmodal.CrossModalAttentionNeck', reductions=[2, 1]),
    'anchored': dict(
        type='mmseg_xmodal.CrossModalAttentionNeck', reductions=[2, 1], anchor=0
    ),
    'two blocks': dict(
        type='mmseg_xmodal.CrossModalAttentionNeck', reductions=[3, 1], depth=2
    ),
    'gate': dict(type='mmseg_xmodal.AdaptiveGateNeck', hidden=8),
    'deformable': dict(
        type='mmseg_xmodal.DeformableFusionNeck', embed_dims=16, num_heads=2, points=2
    ),
    'asking': dict(
        type='mmseg_xmodal.DeformableFusionNeck',
        embed_dims=16,
        num_heads=2,
        points=2,
        anchor=0,
        depth=2,
    ),
}
PLAIN = {
    kind: dict(type='mmseg_xmodal.SelfAttentionNeck', attention=kind, window=3)
    for kind in ('global', 'windowed', 'criss_cross')
} | {
    'prompt': dict(
        type='mmseg_xmodal.PromptAttentionNeck', prompt_channels=12, num_tokens=3
    )
}
SIZES = [(6, 9), (3, 5)]


def build(name: str, streams: int = 2, **kwargs) -> nn.Module:
    cfg = dict(in_channels=CHANNELS, **(PLAIN | STREAMS)[name]) | kwargs
    if name in STREAMS:
        cfg = dict(num_streams=streams) | cfg
    torch.manual_seed(0)
    neck = MODELS.build(cfg)
    randomise(neck)
    return neck.eval()


def streams_of(
    streams: int = 2, sizes: list[tuple[int, int]] | None = None, seed: int = 0
) -> list[list[Tensor]]:
    return [
        [rand(2, c, *size, seed=10 * seed + i) for i in range(streams)]
        for c, size in zip(CHANNELS, sizes or SIZES, strict=True)
    ]


def valid_of(streams: int = 2, sizes: list[tuple[int, int]] | None = None):
    """Half of the first sample lacks the last stream, here and there all lack one."""
    valid = []
    for i, (h, w) in enumerate(sizes or SIZES):
        flags = (rand(streams, 2, 1, h, w, seed=40 + i) > -0.5).float()
        flags[-1, 0, :, :, : w // 2] = 0
        flags[0, :, :, :, : w // 2] = 1
        flags[:-1, :, :, 0, 0] = 0.25  # a part of the pixels counts as valid
        valid.append(list(flags))
    return valid


def stack(levels, valid) -> list[Tensor]:
    return [stack_streams(f, v) for f, v in zip(levels, valid, strict=True)]


def changed(levels, valid, by: float = 5.0):
    """Other content wherever a stream is invalid."""
    return [
        [torch.where(v > 0, f, f * -2 + by) for f, v in zip(fs, vs, strict=True)]
        for fs, vs in zip(levels, valid, strict=True)
    ]
