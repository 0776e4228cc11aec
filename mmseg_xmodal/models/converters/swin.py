"""Swin Transformer weights: official layout and mmseg layout into ours.

Official weights: https://github.com/microsoft/Swin-Transformer (MIT).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..layers.swin_sizes import SWIN_VARIANTS
from .layouts import find_layout, split_backbone, translate_all
from .mit import Converted

_LEAF = r'(weight|bias)'
_FFN = {'0.0': 'fc1', '1': 'fc2'}
# Computed anew by every implementation.
_CONSTANT = re.compile(r'.*\.(relative_position_index|attn_mask|relative_coords_table)')


def swin_key(key: str) -> str | None:
    """Translate one official Swin key; None when it is none.

    Args:
        key: Such as ``layers.0.blocks.1.attn.qkv.weight``.

    Returns:
        Such as ``stages.0.blocks.1.attn.qkv.weight``; '' for a constant.
    """
    if _CONSTANT.fullmatch(key):
        return ''
    if re.fullmatch(rf'patch_embed\.(proj|norm)\.{_LEAF}', key):
        return key
    match = re.fullmatch(rf'norm(\d)\.{_LEAF}', key)
    if match:
        return f'stages.{match[1]}.norm.{match[2]}'
    match = re.fullmatch(rf'layers\.(\d)\.downsample\.(reduction|norm)\.{_LEAF}', key)
    if match:
        return f'stages.{match[1]}.downsample.{match[2]}.{match[3]}'
    match = re.fullmatch(
        rf'layers\.(\d)\.blocks\.(\d+)\.((?:norm[12]|attn\.(?:qkv|proj)|mlp\.fc[12])'
        rf'\.{_LEAF}|attn\.relative_position_bias_table)',
        key,
    )
    return f'stages.{match[1]}.blocks.{match[2]}.{match[3]}' if match else None


def find_swin_variant(
    state: Mapping[str, Tensor], stages: str = 'layers.', embed: str = 'patch_embed.'
) -> str | dict[str, Any] | None:
    """Tell the Swin size of weights in the official layout, or ours, from their shapes.

    Args:
        state: Key to tensor.
        stages: Before the number of the stage, such as ``'backbone.layers.'``.
        embed: Before the patch embedding's parts.

    Returns:
        A name of :data:`SWIN_VARIANTS`, the fields of :class:`SwinVariant` for another
        size, or None where these are no four stages of Swin.
    """
    weight = state.get(f'{embed}proj.weight')
    if weight is None:
        return None
    depths, tables = [], []
    for stage in range(4):
        pattern = re.compile(rf'{re.escape(stages)}{stage}\.blocks\.(\d+)\..+')
        depths.append(len({m[1] for m in map(pattern.fullmatch, state) if m}))
        first = f'{stages}{stage}.blocks.0.attn.relative_position_bias_table'
        tables.append(state.get(first))
    found = [tuple(table.shape) for table in tables if table is not None]
    if len(found) < 4 or any(len(shape) != 2 for shape in found):
        return None
    fields: dict[str, Any] = dict(
        embed_dim=weight.shape[0],
        depths=tuple(depths),
        num_heads=tuple(heads for _, heads in found),
        window=(round(found[0][0] ** 0.5) + 1) // 2,
    )
    for name, size in SWIN_VARIANTS.items():
        if fields == dataclasses.asdict(size):
            return name
    return fields


def _merge_order(value: Tensor) -> Tensor:
    """Sort the four neighbours that a merge reads as the official code has them.

    mmseg unfolds: channel by channel, within one right before down. Official code (and
    ours) has all channels of one neighbour after the other, down before right.

    Shape:
        - value: (..., 4C), output: the same.
    """
    return value.unflatten(-1, (-1, 2, 2)).movedim(-3, -1).transpose(-3, -2).flatten(-3)


def _mmseg_entry(key: str, value: Tensor) -> dict[str, Tensor] | None:
    """Translate one entry of mmseg's SwinTransformer; {} for a constant."""
    if _CONSTANT.fullmatch(key):
        return {}
    match = re.fullmatch(rf'patch_embed\.(projection|norm)\.{_LEAF}', key)
    if match:
        part = 'proj' if match[1] == 'projection' else 'norm'
        return {f'patch_embed.{part}.{match[2]}': value}
    match = re.fullmatch(rf'norm(\d)\.{_LEAF}', key)
    if match:
        return {f'stages.{match[1]}.norm.{match[2]}': value}
    match = re.fullmatch(rf'stages\.(\d)\.downsample\.(reduction|norm)\.{_LEAF}', key)
    if match:
        return {key: _merge_order(value)}
    match = re.fullmatch(
        rf'(stages\.\d\.blocks\.\d+)\.(?:(norm[12])|attn\.w_msa\.(qkv|proj))\.{_LEAF}',
        key,
    )
    if match:
        part = match[2] or f'attn.{match[3]}'
        return {f'{match[1]}.{part}.{match[4]}': value}
    match = re.fullmatch(r'(.+)\.attn\.w_msa\.(relative_position_bias_table)', key)
    if match:
        return {f'{match[1]}.attn.{match[2]}': value}
    match = re.fullmatch(rf'(.+)\.ffn\.layers\.(0\.0|1)\.{_LEAF}', key)
    if match:
        return {f'{match[1]}.mlp.{_FFN[match[2]]}.{match[3]}': value}
    return None


# Layout to a key that only it has.
_MARKS = {
    'official Swin': 'layers.0.blocks.0.attn.qkv.weight',
    'mmseg': 'stages.0.blocks.0.attn.w_msa.qkv.weight',
    'mmseg_xmodal': 'stages.0.blocks.0.attn.qkv.weight',
}


def _translate(key: str, value: Tensor, layout: str) -> dict[str, Tensor] | None:
    if layout == 'mmseg':
        return _mmseg_entry(key, value)
    if layout == 'official Swin':
        ours = swin_key(key)
        return None if ours is None else ({ours: value} if ours else {})
    return {key: value} if key.startswith(('patch_embed.', 'stages.')) else None


def _output_norms(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Initial values of the output norms that ``state``, of a classifier, lacks."""
    norms: dict[str, Tensor] = {}
    for stage in range(4):
        widths = state.get(f'stages.{stage}.blocks.0.norm1.weight')
        key = f'stages.{stage}.norm'
        if widths is not None and f'{key}.weight' not in state:
            norms[f'{key}.weight'] = torch.ones_like(widths)
            norms[f'{key}.bias'] = torch.zeros_like(widths)
    return norms


def convert_swin(state: Mapping[str, Tensor]) -> Converted:
    """Convert Swin weights of any known layout into ours.

    Known are the official layout (``layers.0.blocks.0.attn.qkv``), mmseg's and
    mmpretrain's (``attn.w_msa.qkv``) and our own; a prefix ``backbone.`` is taken off,
    and then the other parts of that model are skipped. Norms of the output, which a
    classifier does not have, start at weight 1 and bias 0.

    Args:
        state: Source key to tensor.

    Returns:
        Our state dict, the layout, what was skipped (the classifier), and what is new.

    Raises:
        ValueError: If the layout is unknown, or a backbone key fits no rule.
    """
    state, outside = split_backbone(state)
    layout = find_layout(state, _MARKS, 'Swin')
    converted, skipped = translate_all(
        state,
        lambda key, value: _translate(key, value, layout),
        ('head.', 'norm.'),
        f'the Swin layout {layout!r}, version 1 without absolute positions',
    )
    skipped = outside + skipped
    norms = _output_norms(converted)
    size = find_swin_variant(converted, 'stages.')
    return Converted(
        converted | norms,
        layout,
        tuple(skipped),
        complete=True,
        fits=f'variant={size!r}' if size else '',
        new=tuple(norms),
    )
