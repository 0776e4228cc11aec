"""Official CMX checkpoints (MiT streams, MLP decoder) into ours.

Official repository: https://github.com/huaaaliu/RGBX_Semantic_Segmentation (MIT).

The official loaders feed BGR images normalised with mean and std in RGB order, on both
streams: a config for converted weights says ``order='bgr'`` and keeps the mean in the
order (123.675, 116.28, 103.53).
"""

from __future__ import annotations

import re

from .io import shorten
from .mit import find_mit_variant, segformer_key
from .official import Official, State, mlp_head, register_official, renaming

_FUSION = {'FRMs': 'rectify', 'FFMs': 'fuse'}


def fusion_key(key: str) -> str | None:
    """Translate the key of an FRM or FFM inside a backbone; None when it is none.

    Args:
        key: Such as ``FFMs.0.cross.norm1.weight``.

    Returns:
        Such as ``fusions.0.fuse.cross.norm1.weight``.
    """
    match = re.fullmatch(r'(FRMs|FFMs)\.(\d+)\.(.+)', key)
    return match and f'fusions.{match[2]}.{_FUSION[match[1]]}.{match[3]}'


def cmx_key(key: str) -> str | None:
    """Translate one official CMX key; None when it is none.

    Args:
        key: Such as ``backbone.extra_norm1.weight``.

    Returns:
        Such as ``backbone.streams.1.stages.0.norm.weight``.
    """
    if key.startswith('decode_head.'):
        return key
    fusion = fusion_key(key.removeprefix('backbone.'))
    if fusion is not None:
        return f'backbone.{fusion}'
    match = re.fullmatch(r'backbone\.(extra_)?(.+)', key)
    inner = segformer_key(match[2]) if match else None
    if match is None or inner is None:
        return None
    return f'backbone.streams.{1 if match[1] else 0}.{inner}'


def cmx_config(state: State) -> dict:
    """Read the config of an official CMX checkpoint with MiT streams.

    Args:
        state: Official key to tensor.

    Raises:
        ValueError: If it is none.
    """
    variant = find_mit_variant(state, prefix='backbone.')
    needed = ('backbone.extra_patch_embed1.proj.weight', 'decode_head.linear_pred.bias')
    lacking = [key for key in needed if key not in state]
    if variant is None or lacking:
        raise ValueError(
            'This is no official CMX checkpoint with MiT streams: got the MiT size '
            f'{variant} at backbone.patch_embed1-4 and backbone.block1-4, and lacking '
            f'keys {lacking}, expected a known size and none. The first keys are '
            f'{shorten(state, 5)}. Give the file that the official repository offers.'
        )
    return dict(
        type='mmseg.EncoderDecoder',
        backbone=dict(
            type='mmseg_xmodal.CMX',
            modalities={
                name: dict(channels=state[f'backbone.{key}.proj.weight'].shape[1])
                for name, key in (('rgb', 'patch_embed1'), ('x', 'extra_patch_embed1'))
            },
            variant=variant,
        ),
        decode_head=mlp_head(state, 'CMXHead'),
    )


CMX = register_official(
    Official(
        name='cmx',
        title='official CMX (MiT streams, MLP decoder)',
        config=cmx_config,
        translate=renaming(cmx_key),
        notes=(
            "official inputs are BGR: order='bgr', mean=[123.675, 116.28, 103.53], "
            'std=[58.395, 57.12, 57.375] on both streams',
        ),
    )
)
