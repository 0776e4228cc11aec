"""Official CMX checkpoints with Swin streams and the MLP decoder into ours.

Official repository: https://github.com/huaaaliu/RGBX_Semantic_Segmentation (MIT). The
inputs are those of CMX with MiT streams, see :mod:`.cmx`.
"""

from __future__ import annotations

import re

from .cmx import CMX, cmx_key
from .io import shorten
from .official import Official, State, mlp_head, register_official, renaming
from .swin import find_swin_variant, swin_key

_PARTS = re.compile(r'backbone\.(patch_embed|layers|downsamples|norm)(_d)?(\.?\d*\..+)')


def cmx_swin_key(key: str) -> str | None:
    """Translate one official key; None when it is none, '' for a constant.

    Args:
        key: Such as ``backbone.layers_d.0.blocks.0.norm1.weight``.

    Returns:
        Such as ``backbone.streams.1.stages.0.blocks.0.norm1.weight``.
    """
    if key.startswith(('decode_head.', 'backbone.FRMs.', 'backbone.FFMs.')):
        return cmx_key(key)
    match = _PARTS.fullmatch(key)
    if match is None:
        return None
    part, second, rest = match.groups()
    if part == 'downsamples':
        # Official Swin keeps them within the stages.
        number, _, leaf = rest[1:].partition('.')
        part, rest = 'layers', f'.{number}.downsample.{leaf}'
    inner = swin_key(part + rest)
    return f'backbone.streams.{1 if second else 0}.{inner}' if inner else inner


def cmx_swin_config(state: State) -> dict:
    """Read the config of an official CMX checkpoint with Swin streams.

    Args:
        state: Official key to tensor.

    Raises:
        ValueError: If it is none.
    """
    sizes = [
        find_swin_variant(state, f'backbone.layers{d}.', f'backbone.patch_embed{d}.')
        for d in ('', '_d')
    ]
    lacking = [
        key
        for key in (
            'backbone.FRMs.0.channel_weights.mlp.0.weight',
            'decode_head.linear_fuse.0.bias',
            'decode_head.linear_pred.weight',
        )
        if key not in state
    ]
    if None in sizes or sizes[0] != sizes[1] or lacking:
        raise ValueError(
            'This is no official CMX checkpoint with Swin streams: got the Swin sizes '
            f'{sizes} at backbone.layers and backbone.layers_d, and lacking keys '
            f'{lacking}, expected twice the same and none. The first keys are '
            f'{shorten(state, 5)}. Give the file that the official repository offers.'
        )
    return dict(
        type='mmseg.EncoderDecoder',
        backbone=dict(
            type='mmseg_xmodal.CMXSwin',
            modalities={
                name: dict(channels=state[f'backbone.{key}.proj.weight'].shape[1])
                for name, key in (('rgb', 'patch_embed'), ('x', 'patch_embed_d'))
            },
            variant=sizes[0],
        ),
        decode_head=mlp_head(state, 'CMXHead'),
    )


CMX_SWIN = register_official(
    Official(
        name='cmx-swin',
        title='official CMX (Swin streams, MLP decoder)',
        config=cmx_swin_config,
        translate=renaming(cmx_swin_key),
        notes=CMX.notes,
    )
)
