"""Runner for DFormerv2; the official repository is that of DFormer."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from mmseg_xmodal.models.converters import convert_official
from mmseg_xmodal.models.converters.dformerv2 import DFORMERV2, dformerv2_key
from mmseg_xmodal.models.layers.dformerv2_sizes import DFORMERV2_VARIANTS
from mmseg_xmodal.registry import MODELS

from ..fill import make_uniform
from ..fixture import Fixture, NoRunner
from .names import plain_name, stated_variant
from .norms import check_eps


def variant_name(fixture: Fixture) -> str:
    """Our name of the fixture's variant, however it is spelled.

    Raises:
        NoRunner: If it is none of the paper.
    """
    stated = stated_variant(fixture)
    match = re.fullmatch(r'dformerv2(s|b|l)\w*', plain_name(stated))
    name = f'dformerv2_{match[1]}' if match else ''
    if name not in DFORMERV2_VARIANTS:
        raise NoRunner(f'{fixture.name}: no runner for DFormerv2 variant {stated!r}')
    return name


def require_ham(fixture: Fixture, family: str) -> None:
    """The decoder is the Ham head: ``'ham'``, ``'LightHamHead'`` or both.

    Raises:
        NoRunner: If it is another.
    """
    decoder = (fixture.meta.get('constructor') or {}).get('decoder') or 'ham'
    if 'ham' not in plain_name(decoder):
        raise NoRunner(f'{fixture.name}: no runner for {family} decoder {decoder!r}')


def dformerv2_config(fixture: Fixture) -> dict:
    """Our config of the fixture's variant, head and class count.

    Raises:
        NoRunner: If the variant or the decoder is not built.
    """
    variant, constructor = variant_name(fixture), fixture.meta['constructor']
    require_ham(fixture, 'DFormerv2')
    shapes = fixture.meta['state_dict']
    modalities = dict(
        rgb=dict(channels=shapes['backbone.patch_embed.proj.0.weight'][1]),
        depth=dict(channels=1),
    )
    return dict(
        type='mmseg.EncoderDecoder',
        data_preprocessor=dict(
            type='mmseg_xmodal.ModalityPreprocessor', modalities=modalities
        ),
        backbone=dict(
            type='mmseg_xmodal.DFormerv2', modalities=modalities, variant=variant
        ),
        decode_head=dict(
            type='mmseg_xmodal.HamHead',
            in_channels=list(DFORMERV2_VARIANTS[variant].embed_dims[1:]),
            in_index=[1, 2, 3],
            ham_channels=shapes['decode_head.squeeze.conv.weight'][0],
            channels=constructor.get(
                'decoder_embed_dim', shapes['decode_head.conv_seg.weight'][1]
            ),
            num_classes=constructor['num_classes'],
            norm_cfg=dict(type='BN', eps=constructor.get('bn_eps', 1e-3)),
        ),
        test_cfg=dict(mode='whole'),
    )


def _has_no_place(key: str) -> bool:
    """Whether an official key is of an auxiliary head."""
    return DFORMERV2.translate(key, torch.empty(0)) == {}


def run_dformerv2(fixture: Fixture) -> dict[str, Tensor]:
    """Compute all outputs of a DFormerv2 fixture.

    Raises:
        NoRunner: If the variant is not built.
    """
    model = MODELS.build(dformerv2_config(fixture)).eval()
    check_eps(model, fixture, dformerv2_key, _has_no_place)
    nmf = model.decode_head.nmf
    bases = make_uniform('nmf_bases', [1, model.decode_head.ham_channels, nmf.rank])
    nmf.set_bases(nn.functional.normalize(bases, dim=1))
    outputs: dict[str, Tensor] = {}
    for case in fixture.meta['cases']:
        converted = convert_official(DFORMERV2, fixture.official_state(case))
        model.load_state_dict(converted, strict=True)
        inputs = fixture.inputs(case)
        # Official code reads the first of three depth channels.
        rgb, depth = (inputs[name] for name in fixture.streams(case))
        stack = torch.cat([rgb, depth[:, :1]], 1)
        with torch.no_grad():
            feats = model.backbone(stack)
            outputs[f'{case}_logits'] = model.decode_head(feats)
        for i, feat in enumerate(feats, 1):
            outputs[f'{case}_stage{i}'] = feat
    return outputs
