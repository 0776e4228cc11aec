"""Runner for the Swin variants of the official CMX repository."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmseg_xmodal.models.converters import convert_official
from mmseg_xmodal.models.converters.cmx_swin import CMX_SWIN, cmx_swin_key
from mmseg_xmodal.registry import MODELS

from ..fixture import Fixture, NoRunner

STREAMS = ('rgb', 'x')


def is_swin(fixture: Fixture) -> bool:
    """Whether the variant has Swin streams, however it is spelled."""
    constructor = fixture.meta.get('constructor') or {}
    names = (fixture.variant, str(constructor.get('backbone', '')))
    return any('swin' in name.lower() for name in names)


def check_eps(model: nn.Module, fixture: Fixture) -> None:
    """Every norm layer has the official eps (cases a and b hardly show it)."""
    modules = dict(model.named_modules())
    for eps, names in fixture.meta.get('norm_eps', {}).items():
        for name in names:
            ours = (cmx_swin_key(f'{name}.weight') or '').removesuffix('.weight')
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
        handles.append(fusion.fuse.register_forward_hook(fused(index)))
    return handles


def run_cmx_swin(fixture: Fixture) -> dict[str, Tensor]:
    """Compute all outputs of a fixture of CMX with Swin streams.

    Raises:
        NoRunner: If the decoder is not built.
    """
    constructor = fixture.meta['constructor']
    decoder = constructor.get('decoder', 'MLPDecoder')
    if decoder != 'MLPDecoder':
        raise NoRunner(f'{fixture.name}: no runner for CMX decoder {decoder!r}')
    shapes = fixture.meta['state_dict']
    config = CMX_SWIN.config(
        {key: torch.empty(shape, device='meta') for key, shape in shapes.items()}
    )
    assert config['decode_head']['num_classes'] == constructor['num_classes']
    model = MODELS.build(config).eval()
    check_eps(model, fixture)
    outputs: dict[str, Tensor] = {}
    for case in fixture.meta['cases']:
        converted = convert_official(CMX_SWIN, fixture.official_state(case))
        model.load_state_dict(converted, strict=True)
        inputs = fixture.inputs(case)
        stack = torch.cat([inputs[name] for name in STREAMS], 1)
        handles = _record(model, case, outputs)
        with torch.no_grad():
            outputs[f'{case}_logits'] = model(stack, mode='tensor')
        for handle in handles:
            handle.remove()
    return outputs
