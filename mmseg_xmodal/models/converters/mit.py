"""MiT weights: official SegFormer layout and mmseg layout into ours.

Official ImageNet weights of MiT come under NVIDIA's non-commercial licence, whatever
the layout.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from torch import Tensor

from ..layers.mit import MIT_VARIANTS
from .layouts import find_layout, split_backbone, translate_all

_LEAF = r'(?P<leaf>weight|bias)'
_SEGFORMER = [
    (rf'patch_embed(?P<s>\d+)\.(?P<part>proj|norm)\.{_LEAF}', 'patch_embed.{part}'),
    (
        rf'block(?P<s>\d+)\.(?P<b>\d+)\.(?P<part>norm[12]|attn\.(?:q|kv|proj|sr|norm)|'
        rf'mlp\.fc[12])\.{_LEAF}',
        'blocks.{b}.{part}',
    ),
    (
        rf'block(?P<s>\d+)\.(?P<b>\d+)\.mlp\.dwconv\.dwconv\.{_LEAF}',
        'blocks.{b}.mlp.dwconv',
    ),
    (rf'norm(?P<s>\d+)\.{_LEAF}', 'norm'),
]
_MMSEG_FFN = {'0': 'fc1', '1': 'dwconv', '4': 'fc2'}


@dataclasses.dataclass(frozen=True)
class Converted:
    """A converted state dict.

    Args:
        state: Our key to tensor.
        layout: Name of the layout that was found.
        skipped: Keys of the source that have no place in ours (the classifier).
        complete: Every tensor of ``state`` must find its place; one that does not
            means another size of the network.
        fits: Which network the weights are of, in words, for messages.
        new: Keys of ``state`` that the source lacks, at their initial values.
    """

    state: dict[str, Tensor]
    layout: str
    skipped: tuple[str, ...] = ()
    complete: bool = False
    fits: str = ''
    new: tuple[str, ...] = ()


def segformer_key(key: str) -> str | None:
    """Translate one official SegFormer key; None when it is none.

    Args:
        key: Such as ``block1.0.attn.q.weight``.

    Returns:
        Such as ``stages.0.blocks.0.attn.q.weight``.
    """
    for pattern, target in _SEGFORMER:
        match = re.fullmatch(pattern, key)
        if match:
            found = match.groupdict()
            place = target.format(**found)
            return f'stages.{int(found["s"]) - 1}.{place}.{found["leaf"]}'
    return None


def find_mit_variant(state: Mapping[str, Tensor], prefix: str = '') -> str | None:
    """Tell the MiT size of weights in the official SegFormer layout from their shapes.

    Args:
        state: Key to tensor.
        prefix: Before ``patch_embed1`` and ``block1``, such as ``'backbone.'``.

    Returns:
        ``'mit_b0'`` to ``'mit_b5'``, or None when it is none of them.
    """
    start = re.escape(prefix)
    return _find_variant(
        state,
        f'{prefix}patch_embed{{}}.proj.weight',
        rf'{start}block{{}}\.(\d+)\..+',
        1,
    )


def _find_variant(
    state: Mapping[str, Tensor], patch: str, block: str, first: int
) -> str | None:
    """Size by the widths at ``patch`` and the blocks that match ``block``, by stage."""
    dims, depths = [], []
    for stage in range(first, first + 4):
        weight = state.get(patch.format(stage))
        dims.append(0 if weight is None else weight.shape[0])
        pattern = re.compile(block.format(stage))
        depths.append(len({m[1] for m in map(pattern.fullmatch, state) if m}))
    for name, size in MIT_VARIANTS.items():
        if (size.embed_dims, size.depths) == (tuple(dims), tuple(depths)):
            return name
    return None


def _mmseg_entry(key: str, value: Tensor) -> dict[str, Tensor] | None:
    """Translate one entry of mmseg's MixVisionTransformer."""
    match = re.fullmatch(rf'layers\.(\d+)\.0\.(projection|norm)\.{_LEAF}', key)
    if match:
        part = 'proj' if match[2] == 'projection' else 'norm'
        return {f'stages.{match[1]}.patch_embed.{part}.{match[3]}': value}
    match = re.fullmatch(rf'layers\.(\d+)\.2\.{_LEAF}', key)
    if match:
        return {f'stages.{match[1]}.norm.{match[2]}': value}
    match = re.fullmatch(r'layers\.(\d+)\.1\.(\d+)\.(.+?)[._](weight|bias)', key)
    if not match:
        return None
    stage, block, part, leaf = match.groups()
    base = f'stages.{stage}.blocks.{block}'
    if part == 'attn.attn.in_proj':
        # mmseg keeps q, k and v in one matrix; ours are q and (k, v).
        width = value.shape[0] // 3
        return {
            f'{base}.attn.q.{leaf}': value[:width],
            f'{base}.attn.kv.{leaf}': value[width:],
        }
    if part == 'attn.attn.out_proj':
        return {f'{base}.attn.proj.{leaf}': value}
    if part in ('norm1', 'norm2', 'attn.sr', 'attn.norm'):
        return {f'{base}.{part}.{leaf}': value}
    ffn = re.fullmatch(r'ffn\.layers\.([014])', part)
    if not ffn:
        return None
    name = _MMSEG_FFN[ffn[1]]
    # 1x1 convolutions there, linear layers here.
    flat = value.flatten(1) if leaf == 'weight' and name != 'dwconv' else value
    return {f'{base}.mlp.{name}.{leaf}': flat}


# Layout to a key that only it has.
_MARKS = {
    'segformer': 'patch_embed1.proj.weight',
    'mmseg': 'layers.0.0.projection.weight',
    'mmseg_xmodal': 'stages.0.patch_embed.proj.weight',
}


def _translate(key: str, value: Tensor, layout: str) -> dict[str, Tensor] | None:
    if layout == 'mmseg':
        return _mmseg_entry(key, value)
    if layout == 'segformer':
        ours = segformer_key(key)
        return None if ours is None else {ours: value}
    return {key: value} if key.startswith('stages.') else None


def convert_mit(state: Mapping[str, Tensor]) -> Converted:
    """Convert MiT weights of any known layout into ours.

    Known are the official SegFormer layout (``patch_embed1.*``), mmseg's
    (``layers.0.0.*``) and our own (``stages.0.*``); a prefix ``backbone.`` is taken
    off, and then the other parts of that model are skipped.

    Args:
        state: Source key to tensor.

    Returns:
        Our state dict, the layout, and what was skipped.

    Raises:
        ValueError: If the layout is unknown, or a backbone key fits no rule.
    """
    state, outside = split_backbone(state)
    layout = find_layout(state, _MARKS, 'MiT')
    converted, skipped = translate_all(
        state,
        lambda key, value: _translate(key, value, layout),
        ('head.',),
        f'the MiT layout {layout!r}, a plain MiT',
    )
    skipped = outside + skipped
    size = _find_variant(
        converted,
        'stages.{}.patch_embed.proj.weight',
        r'stages\.{}\.blocks\.(\d+)\..+',
        0,
    )
    fits = f'variant={size!r}' if size else ''
    return Converted(converted, layout, tuple(skipped), complete=True, fits=fits)
