"""Official DFormer weights into ours.

Official repository: https://github.com/VCIP-RGBD/DFormer (LICENSE says MIT, the README
"non-commercial use only"). Our keys are the official ones.

The official loaders feed BGR images with mean and std in RGB order, and one depth
channel as (value / 255 - 0.48) / 0.28. An auxiliary head (``aux_head``), which official
training adds for an ``aux_rate`` other than 0 and evaluation never runs, is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..layers.dformer_sizes import DFORMER_VARIANTS
from .io import shorten
from .mit import Converted
from .official import Official, State, register_official

_LEAF = r'(?:weight|bias)'
_NORM = rf'(?:{_LEAF}|running_mean|running_var|num_batches_tracked)'
_BACKBONE = re.compile(
    rf'downsample_layers(?:_e)?\.\d+\.\d+\.{_NORM}|'
    r'stages\.\d+\.\d+\.(?:layer_scale_[12](?:_e)?|'
    rf'attn\.(?:norm|norm_e|q|q_cut|l|a|conv|kv|short_cut_linear|proj|proj_e|'
    rf'e_fore|e_conv|e_back)\.{_LEAF}|'
    rf'mlp(?:_e2)?\.(?:norm|fc1|pos|fc2)\.{_LEAF})'
)
_HEAD = re.compile(
    rf'decode_head\.(?:conv_seg|(?:squeeze|align|hamburger\.ham_in|hamburger\.ham_out)'
    rf'\.(?:conv|bn))\.{_NORM}'
)
# Norms of the outputs, which files of revision 5f33d97 hold though nothing called them,
# and the auxiliary head, which only training runs.
_UNUSED = re.compile(rf'backbone\.norm[0-3]\.{_LEAF}|aux_head\..+')
_MARK = 'downsample_layers_e.0.0.weight'


def _find_variant(state: State, prefix: str) -> str | None:
    """Tell the size by the widths and the number of blocks of each stage."""
    blocks: dict[int, set[str]] = {}
    dims: dict[int, int] = {}
    pattern = re.compile(rf'{re.escape(prefix)}stages\.(\d+)\.(\d+)\.(.+)')
    for key, value in state.items():
        match = pattern.fullmatch(key)
        if match:
            blocks.setdefault(int(match[1]), set()).add(match[2])
            if match[3] == 'layer_scale_1':
                dims[int(match[1])] = len(value)
    depths = tuple(len(blocks[stage]) for stage in sorted(blocks))
    widths = tuple(dims[stage] for stage in sorted(dims))
    for name, size in DFORMER_VARIANTS.items():
        if (size.embed_dims, size.depths) == (widths, depths):
            return name
    return None


def dformer_config(state: State) -> dict[str, Any]:
    """Read the config of an official DFormer checkpoint.

    Args:
        state: Official key to tensor.

    Raises:
        ValueError: If it is none.
    """
    needed = (
        f'backbone.{_MARK}',
        'backbone.downsample_layers.0.0.weight',
        'decode_head.squeeze.conv.weight',
        'decode_head.conv_seg.weight',
    )
    lacking = [key for key in needed if key not in state]
    variant = _find_variant(state, 'backbone.')
    if variant is None or lacking:
        raise ValueError(
            'This is no official DFormer checkpoint with a Ham head: got the size '
            f'{variant} at backbone.stages, and lacking keys {lacking}, expected one '
            f'of {list(DFORMER_VARIANTS)} and none. The first keys are '
            f'{shorten(state, 5)}. Give the file that the official repository offers.'
        )
    channels, width = state['decode_head.squeeze.conv.weight'].shape[:2]
    dims = DFORMER_VARIANTS[variant].embed_dims
    index = [i for i in range(4) if sum(dims[i:]) == width]
    if not index:
        raise ValueError(
            f'decode_head.squeeze.conv.weight has {width} inputs, expected the sum of '
            f'the last levels of {dims}. Give the file that the official repository '
            'offers.'
        )
    levels = list(range(index[0], 4))
    classes, embed = state['decode_head.conv_seg.weight'].shape[:2]
    return dict(
        type='mmseg.EncoderDecoder',
        backbone=dict(
            type='mmseg_xmodal.DFormer',
            modalities={
                name: dict(channels=state[f'backbone.{key}.0.0.weight'].shape[1])
                for name, key in (
                    ('rgb', 'downsample_layers'),
                    ('depth', 'downsample_layers_e'),
                )
            },
            variant=variant,
        ),
        decode_head=dict(
            type='mmseg_xmodal.HamHead',
            in_channels=[dims[i] for i in levels],
            in_index=levels,
            ham_channels=channels,
            channels=embed,
            num_classes=classes,
        ),
    )


def _translate(key: str, value: Tensor) -> dict[str, Tensor] | None:
    if _UNUSED.fullmatch(key):
        return {}
    inner = key.removeprefix('backbone.')
    ours = _BACKBONE.fullmatch(inner) if inner != key else _HEAD.fullmatch(key)
    return {key: value} if ours else None


def convert_dformer(state: Mapping[str, Tensor]) -> Converted:
    """Take the backbone out of official weights, pretrained or trained.

    Args:
        state: Source key to tensor, with or without the prefix ``backbone.``.

    Returns:
        Our state dict, and what was skipped (classifiers, heads).

    Raises:
        ValueError: If there is no DFormer in it.
    """
    prefix = 'backbone.' if f'backbone.{_MARK}' in state else ''
    if prefix + _MARK not in state:
        raise ValueError(
            f'These are no DFormer weights: the keys begin with {shorten(state, 5)}, '
            f'expected {_MARK!r} among them, or the same behind "backbone.". Change '
            'the checkpoint.'
        )
    converted = {
        key.removeprefix(prefix): value
        for key, value in state.items()
        if _BACKBONE.fullmatch(key.removeprefix(prefix))
    }
    skipped = tuple(k for k in state if k.removeprefix(prefix) not in converted)
    size = _find_variant(converted, '')
    fits = f'variant={size!r}' if size else ''
    return Converted(converted, 'official DFormer', skipped, complete=True, fits=fits)


DFORMER = register_official(
    Official(
        name='dformer',
        title='official DFormer (Ham head)',
        config=dformer_config,
        translate=_translate,
        notes=(
            "official inputs are BGR: order='bgr', mean=[123.675, 116.28, 103.53], "
            'std=[58.395, 57.12, 57.375]; depth is one channel, (v / 255 - 0.48) / '
            '0.28: mean=[122.4], std=[71.4]',
        ),
    )
)
