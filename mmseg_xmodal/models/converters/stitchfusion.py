"""Official StitchFusion checkpoints into ours.

Official repository:
https://github.com/LiBingyu01/StitchFusion-StitchFusion-Weaving-Any-Visual-Modalities-to-Enhance-Multimodal-Semantic-Segmentation
(Apache-2.0, "for commercial use contact the authors").

The official code has several blocks. Known are the ones with one adapter per pair of
modalities (``adap_t_att12``), per direction (``adap_t_att12`` and ``adap_t_att21``) and
for all (``adap_t`` and ``adap2_t``), in every block of the network.
"""

from __future__ import annotations

import re
from typing import Any

from .io import shorten
from .mit import find_mit_variant, segformer_key
from .mix_se import mix_se_key
from .official import Official, State, mlp_head, register_official, renaming

_FUSION = 'backbone.feature_cross.'
_BLOCK = r'backbone\.block(?P<stage>\d+)\.(?P<block>\d+)\.'
_LAYER = r'\.adapter_(?P<layer>down|mid|up)\.(?P<leaf>weight|bias)'
# Modalities are numbered from 1, with one digit.
_SINGLE = re.compile(rf'{_BLOCK}adap_t_(?P<place>att|mlp)(?P<i>\d)(?P<j>\d){_LAYER}')
_SHARED = re.compile(rf'{_BLOCK}(?P<place>adap_t|adap2_t){_LAYER}')
_PLACES = {'att': 'attn', 'mlp': 'mlp', 'adap_t': 'attn', 'adap2_t': 'mlp'}
_ADAPTER = re.compile(r'adap2?_t')


def _adapter_key(key: str) -> str | None:
    match = _SINGLE.fullmatch(key) or _SHARED.fullmatch(key)
    if not match:
        return None
    found = match.groupdict()
    name = f'{found["i"]}_{found["j"]}' if 'i' in found else 'all'
    return (
        f'backbone.adapters.{int(found["stage"]) - 1}.{found["block"]}.'
        f'{_PLACES[found["place"]]}.adapters.{name}.{found["layer"]}.{found["leaf"]}'
    )


def stitchfusion_key(key: str) -> str | None:
    """Translate one official StitchFusion key; None when it is none.

    Args:
        key: Such as ``backbone.block1.0.adap_t_att12.adapter_up.bias``.

    Returns:
        Such as ``backbone.adapters.0.0.attn.adapters.1_2.up.bias``.
    """
    if key.startswith('decode_head.'):
        return key
    if key.startswith(_FUSION):
        return mix_se_key(key, _FUSION)
    if _ADAPTER.search(key):
        return _adapter_key(key)
    inner = segformer_key(key.removeprefix('backbone.'))
    return f'backbone.trunk.{inner}' if inner and key.startswith('backbone.') else None


def _sharing(state: State) -> str:
    """Which messages share an adapter."""
    single = [m for m in map(_SINGLE.fullmatch, state) if m]
    if any(m['i'] > m['j'] for m in single):
        return 'direction'
    return 'pair' if single or not any(map(_SHARED.fullmatch, state)) else 'all'


def stitchfusion_config(state: State) -> dict:
    """Read the config of an official StitchFusion checkpoint.

    Args:
        state: Official key to tensor.

    Raises:
        ValueError: If it is none.
    """
    trunk = {k: v for k, v in state.items() if not _ADAPTER.search(k)}
    variant = find_mit_variant(trunk, prefix='backbone.')
    needed = (f'{_FUSION}liner_fusion_layers.0.weight', 'decode_head.linear_pred.bias')
    lacking = [key for key in needed if key not in state]
    if variant is None or lacking:
        raise ValueError(
            f'This is no official StitchFusion checkpoint: got the MiT size {variant} '
            'at backbone.patch_embed1-4 and backbone.block1-4, and lacking keys '
            f'{lacking}, expected a known size and none. The first keys are '
            f'{shorten(state, 5)}. Give the file that the official repository offers.'
        )
    mixed = state[needed[0]]
    count = mixed.shape[1] // mixed.shape[0]
    channels = state['backbone.patch_embed1.proj.weight'].shape[1]
    names = ['rgb', *(f'x{i}' for i in range(1, count))]
    backbone: dict[str, Any] = dict(
        type='mmseg_xmodal.StitchFusion',
        modalities=[dict(name=name, channels=channels) for name in names],
        variant=variant,
        sharing=_sharing(state),
    )
    downs = [v for k, v in state.items() if k.endswith('.adapter_down.weight')]
    if downs:
        backbone['rank'] = len(downs[0])
    return dict(
        type='mmseg.EncoderDecoder',
        backbone=backbone,
        decode_head=mlp_head(state, 'CMNeXtHead'),
    )


STITCHFUSION = register_official(
    Official(
        name='stitchfusion',
        title='official StitchFusion',
        config=stitchfusion_config,
        translate=renaming(stitchfusion_key),
        notes=(
            'the modalities are rgb, x1, x2, ... in the official order, three channels '
            'each; their order matters: give `modalities` as a list in that order',
            'official inputs: RGB with the ImageNet mean and standard deviation, the '
            'others divided by 255 only',
        ),
    )
)
