"""Runner for the official CMNeXt (DELIVER) repository."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmseg_xmodal.models.backbones.cmnext import CMNEXT_VARIANTS
from mmseg_xmodal.models.converters import convert_official
from mmseg_xmodal.models.converters.cmnext import CMNEXT, cmnext_key
from mmseg_xmodal.models.layers.mit import MIT_VARIANTS
from mmseg_xmodal.registry import MODELS

from ..fixture import Fixture, NoRunner
from .names import require_mit
from .norms import check_eps

REPOSITORY = 'https://github.com/jamycheung/DELIVER'
STREAMS = ('rgb', 'x')


def _variant(fixture: Fixture) -> str:
    ours = require_mit(fixture, 'cmnext')
    official = {mit: cmnext for cmnext, mit in CMNEXT_VARIANTS.items()}
    return official.get(ours, ours)


def cmnext_config(fixture: Fixture) -> dict:
    """Our config of the fixture's variant, modalities and class count.

    Raises:
        NoRunner: If the variant is not built.
    """
    meta = fixture.meta
    shapes = meta['state_dict']
    variant = _variant(fixture)
    case = next(iter(meta['cases'].values()))
    # A list keeps its order, which is that of the official inputs.
    modalities = [
        dict(name=entry['stream'], channels=entry['shape'][1])
        for entry in case['inputs']
    ]
    extra = shapes.get('backbone.extra_downsample_layers.0.proj.module.weight')
    backbone = dict(type='mmseg_xmodal.CMNeXt', modalities=modalities, variant=variant)
    if extra is not None:
        backbone['extra_channels'] = extra[1]
    constructor = meta.get('constructor') or {}
    if 'decode_head.linear_pred.weight' not in shapes:
        head = constructor.get('head')
        raise NoRunner(f'{fixture.name}: no runner for CMNeXt head {head!r}')
    classes, channels = shapes['decode_head.linear_pred.weight'][:2]
    return dict(
        type='mmseg.EncoderDecoder',
        data_preprocessor=dict(
            type='mmseg_xmodal.ModalityPreprocessor', modalities=modalities
        ),
        backbone=backbone,
        decode_head=dict(
            type='mmseg_xmodal.CMNeXtHead',
            in_channels=MIT_VARIANTS[CMNEXT_VARIANTS.get(variant, variant)].embed_dims,
            channels=channels,
            num_classes=constructor.get('num_classes', classes),
        ),
        test_cfg=dict(mode='whole'),
    )


def _record(model: nn.Module, case: str, outputs: dict[str, Tensor]) -> list:
    """Hook the intermediate maps; return the handles."""

    def rectified(index: int):
        def hook(_module, _args, result) -> None:
            for stream, feat in zip(STREAMS, result[0], strict=True):
                outputs[f'{case}_rect{index}_{stream}'] = feat

        return hook

    def merged(index: int):
        def hook(_module, _args, result) -> None:
            outputs[f'{case}_hub{index}'] = result[1]

        return hook

    def fused(_module, _args, result) -> None:
        for index, feat in enumerate(result, 1):
            outputs[f'{case}_fused{index}'] = feat

    handles = [model.backbone.register_forward_hook(fused)]
    for index, fusion in enumerate(model.backbone.fusions, 1):
        handles.append(fusion.rectify.register_forward_hook(rectified(index)))
        hub = model.backbone.extra[index - 1].hub
        if hub is not None:
            handles.append(hub.register_forward_hook(merged(index)))
    return handles


def run_cmnext(fixture: Fixture) -> dict[str, Tensor]:
    """Compute all outputs of a CMNeXt fixture.

    Raises:
        NoRunner: If the variant is not built.
    """
    model = MODELS.build(cmnext_config(fixture)).eval()
    check_eps(model, fixture, cmnext_key)
    outputs: dict[str, Tensor] = {}
    for case in fixture.meta['cases']:
        converted = convert_official(CMNEXT, fixture.official_state(case))
        model.load_state_dict(converted, strict=True)
        stack = torch.cat(list(fixture.inputs(case).values()), 1)
        handles = _record(model, case, outputs)
        with torch.no_grad():
            outputs[f'{case}_logits'] = model(stack, mode='tensor')
        for handle in handles:
            handle.remove()
    return outputs
