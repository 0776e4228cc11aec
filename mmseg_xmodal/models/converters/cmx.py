"""Official CMX checkpoints (MiT streams, MLP decoder) into ours.

Official repository: https://github.com/huaaaliu/RGBX_Semantic_Segmentation (MIT).

The official loaders feed BGR images normalised with mean and std in RGB order, on both
streams: a config for converted weights says ``order='bgr'`` and keeps the mean in the
order (123.675, 116.28, 103.53).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from ..layers.mit import MIT_VARIANTS
from .io import shorten
from .mit import segformer_key

_FUSION = {'FRMs': 'rectify', 'FFMs': 'fuse'}
_NORM_LEAVES = ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked')


def cmx_key(key: str) -> str | None:
    """Translate one official CMX key; None when it is none.

    Args:
        key: Such as ``backbone.extra_norm1.weight``.

    Returns:
        Such as ``backbone.streams.1.stages.0.norm.weight``.
    """
    if key.startswith('decode_head.'):
        return key
    match = re.fullmatch(r'backbone\.(FRMs|FFMs)\.(\d+)\.(.+)', key)
    if match:
        return f'backbone.fusions.{match[2]}.{_FUSION[match[1]]}.{match[3]}'
    match = re.fullmatch(r'backbone\.(extra_)?(.+)', key)
    inner = segformer_key(match[2]) if match else None
    if match is None or inner is None:
        return None
    return f'backbone.streams.{1 if match[1] else 0}.{inner}'


def _pairs(*names: str) -> list[str]:
    return [f'{name}.{leaf}' for name in names for leaf in ('weight', 'bias')]


def _stage_keys(prefix: str, stage: int, depth: int, sr_ratio: int) -> list[str]:
    keys = _pairs(
        f'{prefix}patch_embed{stage}.proj',
        f'{prefix}patch_embed{stage}.norm',
        f'{prefix}norm{stage}',
    )
    parts = ['norm1', 'attn.q', 'attn.kv', 'attn.proj', 'norm2', 'mlp.fc1', 'mlp.fc2']
    parts += ['mlp.dwconv.dwconv']
    if sr_ratio > 1:
        parts += ['attn.sr', 'attn.norm']
    for block in range(depth):
        keys += _pairs(*(f'{prefix}block{stage}.{block}.{part}' for part in parts))
    return keys


def _fusion_keys(index: int) -> list[str]:
    frm, ffm = f'FRMs.{index}', f'FFMs.{index}'
    cross, embed = f'{ffm}.cross', f'{ffm}.channel_emb'
    branches = [f'{frm}.{kind}_weights.mlp' for kind in ('channel', 'spatial')]
    paths = [f'{cross}.{name}' for name in ('channel_proj', 'end_proj', 'norm')]
    keys = _pairs(
        *(f'{branch}.{i}' for branch in branches for i in '02'),
        *(f'{path}{i}' for path in paths for i in '12'),
        *(f'{embed}.channel_embed.{i}' for i in '013'),
    )
    keys += [f'{cross}.cross_attn.kv{i}.weight' for i in '12']
    keys.append(f'{embed}.residual.weight')
    for norm in ('channel_embed.4', 'norm'):
        keys += [f'{embed}.{norm}.{leaf}' for leaf in _NORM_LEAVES]
    return keys


def _head_keys() -> list[str]:
    levels = [f'linear_c{i}.proj' for i in '4321']
    keys = _pairs(*levels, 'linear_fuse.0', 'linear_pred')
    return keys + [f'linear_fuse.1.{leaf}' for leaf in _NORM_LEAVES]


def official_cmx_keys(variant: str) -> list[str]:
    """List the keys of an official CMX checkpoint with the MLP decoder.

    Args:
        variant: ``'mit_b0'`` to ``'mit_b5'``.
    """
    size = MIT_VARIANTS[variant]
    keys: list[str] = []
    for prefix in ('', 'extra_'):
        for i, (depth, ratio) in enumerate(
            zip(size.depths, size.sr_ratios, strict=True)
        ):
            keys += _stage_keys(prefix, i + 1, depth, ratio)
    for i in range(len(size.embed_dims)):
        keys += _fusion_keys(i)
    return [f'backbone.{k}' for k in keys] + [f'decode_head.{k}' for k in _head_keys()]


def find_cmx_variant(state: Mapping[str, Tensor]) -> str:
    """Tell the MiT size of an official CMX checkpoint from its shapes.

    Args:
        state: Official key to tensor.

    Returns:
        ``'mit_b0'`` to ``'mit_b5'``.

    Raises:
        ValueError: If it is no CMX with MiT streams.
    """
    dims, depths = [], []
    for stage in range(1, 5):
        weight = state.get(f'backbone.patch_embed{stage}.proj.weight')
        dims.append(0 if weight is None else weight.shape[0])
        pattern = rf'backbone\.block{stage}\.(\d+)\.norm1\.weight'
        depths.append(sum(re.fullmatch(pattern, key) is not None for key in state))
    for name, size in MIT_VARIANTS.items():
        if (size.embed_dims, size.depths) == (tuple(dims), tuple(depths)):
            return name
    known = {name: (v.embed_dims, v.depths) for name, v in MIT_VARIANTS.items()}
    raise ValueError(
        'This is no official CMX checkpoint with MiT streams: got channels '
        f'{tuple(dims)} and depths {tuple(depths)} at backbone.patch_embed1-4 and '
        f'backbone.block1-4, expected one of {known}. The first keys are '
        f'{shorten(state, 5)}. Give the file that the official repository offers.'
    )


def _complain(what: str, keys: Iterable[str], variant: str, hint: str) -> ValueError:
    keys = list(keys)
    return ValueError(
        f'Official CMX ({variant}, MLP decoder): {len(keys)} keys are {what}: '
        f'{shorten(keys)}. {hint}'
    )


def convert_cmx(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert an official CMX state dict to that of an ``EncoderDecoder`` of ours.

    Args:
        state: Official key to tensor (``backbone.*`` and ``decode_head.*``).

    Returns:
        Our key to the same tensor; loads strictly into ``backbone=CMX``,
        ``decode_head=CMXHead``.

    Raises:
        ValueError: If a key is missing or has no place.
    """
    variant = find_cmx_variant(state)
    expected = official_cmx_keys(variant)
    missing = [key for key in expected if key not in state]
    if missing:
        hint = 'The file is incomplete, or its decoder is not the MLP decoder.'
        raise _complain('missing', missing, variant, hint)
    known = set(expected)
    extra = [key for key in state if key not in known]
    if extra:
        hint = 'Only MiT streams with the MLP decoder and no auxiliary head are known.'
        raise _complain('not expected', extra, variant, hint)
    converted = {}
    for key, value in state.items():
        ours = cmx_key(key)
        assert ours is not None, key
        converted[ours] = value
    return converted
