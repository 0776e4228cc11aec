"""Runner for the official CMX repository; its Swin variants have one of their own."""

from __future__ import annotations

from torch import Tensor

from mmseg_xmodal.models.converters.cmx import CMX, cmx_key
from mmseg_xmodal.models.layers.mit import MIT_VARIANTS
from mmseg_xmodal.registry import MODELS

from ..fixture import Fixture, NoRunner
from .cmx_swin import is_swin, run_cmx_swin
from .pairs import STREAMS, check_eps, run_cases

REPOSITORY = 'https://github.com/huaaaliu/RGBX_Semantic_Segmentation'


def cmx_config(fixture: Fixture) -> dict:
    """Our config of the fixture's variant, decoder and class count.

    Raises:
        NoRunner: If the variant or the decoder is not built yet.
    """
    meta, constructor = fixture.meta, fixture.meta['constructor']
    variant = constructor.get('backbone', fixture.variant)
    if variant not in MIT_VARIANTS:
        raise NoRunner(f'{fixture.name}: no runner for CMX variant {variant!r}')
    decoder = constructor.get('decoder', 'MLPDecoder')
    if decoder != 'MLPDecoder':
        raise NoRunner(f'{fixture.name}: no runner for CMX decoder {decoder!r}')
    shapes = meta['state_dict']
    channels = {
        'rgb': shapes['backbone.patch_embed1.proj.weight'][1],
        'x': shapes['backbone.extra_patch_embed1.proj.weight'][1],
    }
    modalities = {name: dict(channels=channels[name]) for name in STREAMS}
    return dict(
        type='mmseg.EncoderDecoder',
        data_preprocessor=dict(
            type='mmseg_xmodal.ModalityPreprocessor', modalities=modalities
        ),
        backbone=dict(type='mmseg_xmodal.CMX', modalities=modalities, variant=variant),
        decode_head=dict(
            type='mmseg_xmodal.CMXHead',
            in_channels=MIT_VARIANTS[variant].embed_dims,
            channels=constructor.get('decoder_embed_dim', 512),
            num_classes=constructor['num_classes'],
        ),
        test_cfg=dict(mode='whole'),
    )


def run_cmx(fixture: Fixture) -> dict[str, Tensor]:
    """Compute all outputs of a CMX fixture.

    Raises:
        NoRunner: If the variant or the decoder is not built yet.
    """
    if is_swin(fixture):
        return run_cmx_swin(fixture)
    model = MODELS.build(cmx_config(fixture)).eval()
    check_eps(model, fixture, cmx_key)
    return run_cases(fixture, model, CMX, lambda fusion: fusion)
