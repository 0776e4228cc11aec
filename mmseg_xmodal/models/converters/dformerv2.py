"""Official DFormerv2 checkpoints into ours.

Official repository: https://github.com/VCIP-RGBD/DFormer (LICENSE says MIT, the README
"non-commercial use only"). An auxiliary head (``aux_head``), which official training
adds for an ``aux_rate`` other than 0 and evaluation never runs, is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ..layers.dformerv2_sizes import DFORMERV2_VARIANTS
from .io import shorten
from .mit import Converted
from .official import Official, State, register_official

_LEAF = r'(weight|bias|running_mean|running_var|num_batches_tracked)'
_PARTS = {
    'layer_norm1': 'norm1',
    'layer_norm2': 'norm2',
    'Attention.q_proj': 'attn.q',
    'Attention.k_proj': 'attn.k',
    'Attention.v_proj': 'attn.v',
    'Attention.out_proj': 'attn.out',
    'Attention.lepe.dwconv': 'attn.lepe',
    'ffn.fc1': 'ffn.fc1',
    'ffn.fc2': 'ffn.fc2',
    'ffn.dwconv.dwconv': 'ffn.dwconv',
    'cnn_pos_encode.dwconv': 'pos',
}
# Of the official constants, both recomputed here; and the head that only trains.
_CONSTANTS = re.compile(r'layers\.\d+\.blocks\.\d+\.Geo\.(angle|decay)')
_TRAINING = 'aux_head.'


def encoder_key(key: str) -> str | None:
    """Translate an official key below ``backbone.``; None when it is none.

    Args:
        key: Such as ``layers.0.blocks.1.Attention.q_proj.weight``.

    Returns:
        Such as ``stages.0.1.attn.q.weight``.
    """
    match = re.fullmatch(rf'patch_embed\.proj\.(\d+)\.{_LEAF}', key)
    if match:
        index, rest = divmod(int(match[1]), 3)
        part = ('convs', 'norms')[rest] if rest < 2 and index < 4 else None
        return f'stem.{part}.{index}.{match[2]}' if part else None
    match = re.fullmatch(rf'layers\.(\d+)\.downsample\.(reduction|norm)\.{_LEAF}', key)
    if match:
        part = 'conv' if match[2] == 'reduction' else 'norm'
        return f'downsamples.{match[1]}.{part}.{match[3]}'
    match = re.fullmatch(rf'extra_norms\.(\d+)\.{_LEAF}', key)
    if match:
        return f'norms.{match[1]}.{match[2]}'
    match = re.fullmatch(r'layers\.(\d+)\.blocks\.(\d+)\.(.+)', key)
    if not match:
        return None
    block = f'stages.{match[1]}.{match[2]}'
    if match[3] == 'Geo.weight':
        return f'{block}.attn.slopes'
    if match[3] in ('gamma_1', 'gamma_2'):
        return f'{block}.gamma{match[3][-1]}'
    part, _, leaf = match[3].rpartition('.')
    return f'{block}.{_PARTS[part]}.{leaf}' if part in _PARTS else None


def dformerv2_key(key: str) -> str | None:
    """Translate one official key of the whole network; None when it is none."""
    if key.startswith('decode_head.'):
        return key
    inner = encoder_key(key.removeprefix('backbone.'))
    if inner is None or not key.startswith('backbone.'):
        return None
    return f'backbone.encoder.{inner}'


def _translate(key: str, value: Tensor) -> dict[str, Tensor] | None:
    constant = _CONSTANTS.fullmatch(key.removeprefix('backbone.'))
    if constant or key.startswith(_TRAINING):
        return {}
    ours = dformerv2_key(key)
    if ours is None:
        return None
    # Official slopes and gammas have axes of size 1.
    bare = ours.rpartition('.')[2] in ('slopes', 'gamma1', 'gamma2')
    return {ours: value.flatten() if bare else value}


def find_variant(state: State, prefix: str = '') -> str | None:
    """Tell the size from shapes and keys.

    Args:
        state: Official key to tensor.
        prefix: Before ``layers``, such as ``'backbone.'``.

    Returns:
        Name of the size, or None when it is none of them.
    """
    dims, depths = [], []
    for stage in range(4):
        place = f'{prefix}layers.{stage}.blocks'
        first = state.get(f'{place}.0.Attention.q_proj.weight')
        dims.append(0 if first is None else first.shape[0])
        pattern = re.compile(rf'{re.escape(place)}\.(\d+)\..+')
        depths.append(len({m[1] for m in map(pattern.fullmatch, state) if m}))
    for name, size in DFORMERV2_VARIANTS.items():
        if (size.embed_dims, size.depths) == (tuple(dims), tuple(depths)):
            return name
    return None


def dformerv2_config(state: State) -> dict:
    """Read the config of an official DFormerv2 checkpoint.

    Args:
        state: Official key to tensor.

    Raises:
        ValueError: If it is none.
    """
    variant = find_variant(state, 'backbone.')
    needed = (
        'backbone.patch_embed.proj.0.weight',
        'decode_head.squeeze.conv.weight',
        'decode_head.conv_seg.weight',
    )
    lacking = [key for key in needed if key not in state]
    if variant is None or lacking:
        raise ValueError(
            f'This is no official DFormerv2 checkpoint: got the size {variant} at '
            f'backbone.layers, and lacking keys {lacking}, expected one of '
            f'{list(DFORMERV2_VARIANTS)} and none. The first keys are '
            f'{shorten(state, 5)}. Give the file that the official repository offers.'
        )
    stem, squeeze, classifier = (state[key] for key in needed)
    return dict(
        type='mmseg.EncoderDecoder',
        backbone=dict(
            type='mmseg_xmodal.DFormerv2',
            modalities=dict(rgb=dict(channels=stem.shape[1]), depth=dict(channels=1)),
            variant=variant,
        ),
        decode_head=dict(
            type='mmseg_xmodal.HamHead',
            in_channels=list(DFORMERV2_VARIANTS[variant].embed_dims[1:]),
            in_index=[1, 2, 3],
            ham_channels=squeeze.shape[0],
            channels=classifier.shape[1],
            num_classes=classifier.shape[0],
        ),
    )


def convert_dformerv2(state: Mapping[str, Tensor]) -> Converted:
    """Convert official weights, ImageNet or whole, into those of our encoder.

    The norms of the outputs are no part of the classifier that was trained on ImageNet:
    where the file lacks them they start as the identity.

    Args:
        state: Official key to tensor, with or without ``backbone.``.

    Returns:
        Weights of our ``Encoder``, what was skipped, and what is new.

    Raises:
        ValueError: If these are no weights of DFormerv2.
    """
    if any(key.startswith('backbone.') for key in state):
        skipped = [key for key in state if not key.startswith('backbone.')]
        state = {
            key.removeprefix('backbone.'): value
            for key, value in state.items()
            if key.startswith('backbone.')
        }
    else:
        skipped = []
    variant = find_variant(state)
    if variant is None:
        raise ValueError(
            f'These are no weights of DFormerv2: the keys begin with '
            f'{shorten(state, 5)}, expected the layers of one of '
            f'{list(DFORMERV2_VARIANTS)}. Change the checkpoint.'
        )
    converted: dict[str, Tensor] = {}
    for key, value in state.items():
        entries = _translate(f'backbone.{key}', value)
        if entries is None:
            skipped.append(key)
        else:
            converted.update(
                (ours.removeprefix('backbone.encoder.'), v)
                for ours, v in entries.items()
            )
    norms: dict[str, Tensor] = {}
    for i, dim in enumerate(DFORMERV2_VARIANTS[variant].embed_dims[1:]):
        norms[f'norms.{i}.weight'] = torch.ones(dim)
        norms[f'norms.{i}.bias'] = torch.zeros(dim)
    return Converted(
        norms | converted,
        'DFormerv2',
        tuple(skipped),
        complete=True,
        fits=f'variant={variant!r}',
        new=tuple(key for key in norms if key not in converted),
    )


DFORMERV2 = register_official(
    Official(
        name='dformerv2',
        title='official DFormerv2',
        config=dformerv2_config,
        translate=_translate,
        notes=(
            "official images are BGR with mean and std in RGB order: order='bgr', "
            'mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]; only those '
            "trained on SUN RGB-D are RGB: order='rgb'",
            'depth is (file / 255 - 0.48) / 0.28 of 8-bit files: channels=1, '
            'mean=122.4, std=71.4',
        ),
        variants=tuple(DFORMERV2_VARIANTS),
    )
)
