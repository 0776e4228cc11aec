"""Runner for the official CMX repository; its Swin variants have one of their own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmseg_xmodal.models.converters import convert_official
from mmseg_xmodal.models.converters.cmx import CMX, cmx_key
from mmseg_xmodal.models.layers.mit import MIT_VARIANTS
from mmseg_xmodal.registry import MODELS

from ..fixture import Fixture, NoRunner
from .cmx_swin import is_swin, run_cmx_swin

REPOSITORY = 'https://github.com/huaaaliu/RGBX_Semantic_Segmentation'
STREAMS = ('rgb', 'x')


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


def check_eps(model: nn.Module, fixture: Fixture) -> None:
    """Every norm layer has the official eps (cases a and b hardly show it)."""
    modules = dict(model.named_modules())
    for eps, names in fixture.meta.get('norm_eps', {}).items():
        for name in names:
            ours = cmx_key(f'{name}.weight').removesuffix('.weight')
            assert modules[ours].eps == float(eps), (name, modules[ours].eps, eps)


def _record(model: nn.Module, case: str, outputs: dict[str, Tensor]) -> list:
    """Hook the intermediate maps; return the handles."""

    def rectified(index: int):
        def hook(_module, _args, result) -> None:
            for stream, feat in zip(STREAMS, result[0], strict=True):
                outputs[f'{case}_rect{index}_{stream}'] = feat

        return hook

    def fused(index: int):
        def hook(_module, _args, result) -> None:
            outputs[f'{case}_fused{index}'] = result[1]

        return hook

    handles = []
    for index, fusion in enumerate(model.backbone.fusions, 1):
        handles.append(fusion.rectify.register_forward_hook(rectified(index)))
        handles.append(fusion.register_forward_hook(fused(index)))
    return handles


def run_cmx(fixture: Fixture) -> dict[str, Tensor]:
    """Compute all outputs of a CMX fixture.

    Raises:
        NoRunner: If the variant or the decoder is not built yet.
    """
    if is_swin(fixture):
        return run_cmx_swin(fixture)
    model = MODELS.build(cmx_config(fixture)).eval()
    check_eps(model, fixture)
    outputs: dict[str, Tensor] = {}
    for case in fixture.meta['cases']:
        converted = convert_official(CMX, fixture.official_state(case))
        model.load_state_dict(converted, strict=True)
        inputs = fixture.inputs(case)
        stack = torch.cat([inputs[name] for name in STREAMS], 1)
        handles = _record(model, case, outputs)
        with torch.no_grad():
            outputs[f'{case}_logits'] = model(stack, mode='tensor')
        for handle in handles:
            handle.remove()
    return outputs
