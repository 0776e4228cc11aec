"""Official checkpoints of DAFormer, HRDA and MIC (MiT backbones) into ours.

Official repositories: https://github.com/lhoyer/DAFormer, https://github.com/lhoyer/HRDA
and https://github.com/lhoyer/MIC (Apache-2.0; the MiT weights that they start from are
NVIDIA's, non-commercial). They save the wrapper of the adaptation: the student under
``model.``, which is what they evaluate, beside its teacher and the ImageNet network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from .io import shorten
from .mit import find_mit_variant, segformer_key
from .official import Official, State, register_official, renaming

_STUDENT = 'model.'
_OTHERS = ('ema_model.', 'imnet_model.')
_HEADS = {'DAFormer': 'decode_head.', 'HRDA': 'decode_head.head.'}
_NOTES = (
    'official inputs are RGB: mean=[123.675, 116.28, 103.53], '
    'std=[58.395, 57.12, 57.375]',
)


def daformer_key(key: str) -> str | None:
    """Translate one official key; None when it is none, ``''`` for other networks.

    Args:
        key: Such as ``model.backbone.block1.0.attn.q.weight``.

    Returns:
        Such as ``backbone.stages.0.blocks.0.attn.q.weight``.
    """
    if key.startswith(_OTHERS):
        return ''
    key = key.removeprefix(_STUDENT)
    if key.startswith('backbone.'):
        ours = segformer_key(key.removeprefix('backbone.'))
        return ours and f'backbone.{ours}'
    return key if key.startswith('decode_head.') else None


def daformer_head_config(
    state: State, prefix: str, dilations: Sequence[int] | None = None
) -> dict[str, Any]:
    """Read the config of a DAFormer head from its weights.

    Args:
        state: Official key to tensor.
        prefix: Before ``conv_seg`` and ``embed_layers``, such as ``'decode_head.'``.
        dilations: Of the parallel convolutions, where the head has them: weights do not
            tell them. Defaults to the published ones.

    Raises:
        ValueError: If the fusion is unknown, or weights that tell the config are
            missing.
    """
    needed = [f'{prefix}{p}.weight' for p in ('conv_seg', 'embed_layers.0.proj')]
    lacking = [key for key in needed if key not in state]
    if lacking:
        raise ValueError(
            f'The decoder under {prefix!r} lacks {lacking}, expected all of {needed}. '
            'Give the file that the official repository offers.'
        )
    classes, channels = state[needed[0]].shape[:2]
    levels: list[Tensor] = []
    while (key := f'{prefix}embed_layers.{len(levels)}.proj.weight') in state:
        levels.append(state[key])
    fusion = _fusion(state, f'{prefix}fuse_layer.')
    cfg = dict(
        type='mmseg_xmodal.DAFormerHead',
        in_channels=[level.shape[1] for level in levels],
        channels=channels,
        embed_dims=levels[0].shape[0],
        fusion=fusion,
        num_classes=classes,
        out_channels=classes,
    )
    if dilations is not None and fusion != 'conv1':
        cfg['dilations'] = tuple(dilations)
    return cfg


def _fusion(state: State, prefix: str) -> str:
    """Name of the fusion; raises ``ValueError`` where it is none of ours."""
    marks = {
        'conv1': 'conv.weight',
        'sepaspp': 'aspp_modules.1.depthwise_conv.conv.weight',
        'aspp': 'aspp_modules.1.conv.weight',
    }
    for fusion, mark in marks.items():
        if prefix + mark in state:
            return fusion
    raise ValueError(
        f'The decoder has none of the fusions {sorted(marks)} under {prefix!r}: its '
        f'keys are {shorten(k for k in state if k.startswith(prefix))}. Give a '
        'checkpoint with one of them.'
    )


def _student(state: State) -> Mapping[str, Tensor]:
    return {k.removeprefix(_STUDENT): v for k, v in state.items()}


def _variant(state: State, method: str) -> str:
    """Size of the MiT; raises ``ValueError`` where the state is of another method."""
    variant = find_mit_variant(state, 'backbone.')
    found = {
        m for m, at in _HEADS.items() if f'{at}embed_layers.0.proj.weight' in state
    }
    if variant is None or method not in found:
        raise ValueError(
            f'This is no official {method} checkpoint: a MiT of size {variant} under '
            f'backbone.patch_embed1-4 and block1-4, and {method}Head '
            f'{"found" if method in found else "not found"} under decode_head. The '
            f'first keys are {shorten(state, 5)}. Give the file that the official '
            'repository offers.'
        )
    return variant


def daformer_config(state: State) -> dict[str, Any]:
    """Config of the network of an official DAFormer checkpoint.

    Raises:
        ValueError: If it is none.
    """
    state = _student(state)
    return dict(
        type='mmseg.EncoderDecoder',
        backbone=dict(
            type='mmseg_xmodal.MixTransformer', variant=_variant(state, 'DAFormer')
        ),
        decode_head=daformer_head_config(state, 'decode_head.'),
    )


def hrda_config(state: State) -> dict[str, Any]:
    """Config of the network of an official HRDA or MIC (HRDA) checkpoint.

    Raises:
        ValueError: If it is none.
    """
    state = _student(state)
    variant = _variant(state, 'HRDA')
    return dict(
        type='mmseg_xmodal.MultiResolutionSegmentor',
        backbone=dict(type='mmseg_xmodal.MixTransformer', variant=variant),
        decode_head=daformer_head_config(state, 'decode_head.head.'),
        scale_attention=daformer_head_config(state, 'decode_head.scale_attention.'),
        detail_size=(512, 512),
        test_cfg=dict(mode='slide', crop_size=(1024, 1024), stride=(512, 512)),
    )


DAFORMER = register_official(
    Official(
        name='daformer',
        title='official DAFormer (MiT, DAFormer head)',
        config=daformer_config,
        translate=renaming(daformer_key),
        notes=_NOTES,
    )
)
HRDA = register_official(
    Official(
        name='hrda',
        title='official HRDA or MIC (MiT, DAFormer heads at two resolutions)',
        config=hrda_config,
        translate=renaming(daformer_key),
        notes=_NOTES,
    )
)
