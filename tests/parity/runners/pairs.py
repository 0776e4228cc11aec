"""What the runners of CMX with MiT and with Swin streams share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mmseg_xmodal.models.converters import Official, convert_official

from ..fixture import Fixture

STREAMS = ('rgb', 'x')


def check_eps(
    model: nn.Module, fixture: Fixture, rename: Callable[[str], str | None]
) -> None:
    """Every norm layer has the official eps (cases a and b hardly show it).

    Args:
        model: Ours.
        fixture: With the eps by official name.
        rename: From an official key to ours.
    """
    modules = dict(model.named_modules())
    for eps, names in fixture.meta.get('norm_eps', {}).items():
        for name in names:
            ours = (rename(f'{name}.weight') or '').removesuffix('.weight')
            assert modules[ours].eps == float(eps), (name, modules[ours].eps, eps)


def _record(
    model: nn.Module,
    case: str,
    outputs: dict[str, Tensor],
    fusing: Callable[[nn.Module], nn.Module],
) -> list:
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
        handles.append(fusing(fusion).register_forward_hook(fused(index)))
    return handles


def run_cases(
    fixture: Fixture,
    model: nn.Module,
    official: Official,
    fusing: Callable[[nn.Module], nn.Module],
) -> dict[str, Tensor]:
    """Load, run and record every case.

    Args:
        fixture: With weights and inputs.
        model: Ours, in eval mode.
        official: Family of the weights.
        fusing: From the fusion of a stage to the module that gives the fused map.
    """
    outputs: dict[str, Tensor] = {}
    for case in fixture.meta['cases']:
        converted = convert_official(official, fixture.official_state(case))
        model.load_state_dict(converted, strict=True)
        inputs = fixture.inputs(case)
        stack = torch.cat([inputs[name] for name in STREAMS], 1)
        handles = _record(model, case, outputs, fusing)
        with torch.no_grad():
            outputs[f'{case}_logits'] = model(stack, mode='tensor')
        for handle in handles:
            handle.remove()
    return outputs
