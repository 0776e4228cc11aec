"""What the runners of MMSFormer and StitchFusion share."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import Tensor, nn

from mmseg_xmodal.models.converters import Official, convert_official
from mmseg_xmodal.models.layers.mit import MIT_VARIANTS
from mmseg_xmodal.registry import MODELS

from ..fixture import Fixture, NoRunner


def _check_variant(fixture: Fixture, method: str, config: dict) -> None:
    """The size in the name is the one that was read from the shapes."""
    name = str(fixture.meta['constructor'].get('backbone', fixture.variant))
    match = re.fullmatch(rf'(?:{method})?[-_ ]?(?:mit)?[-_ ]?b(\d)', name.lower())
    variant = f'mit_b{match[1]}' if match else None
    if variant not in MIT_VARIANTS:
        raise NoRunner(f'{fixture.name}: no runner for {method} variant {name!r}')
    assert config['backbone']['variant'] == variant, (name, config['backbone'])
    classes = fixture.meta['constructor'].get('num_classes')
    assert classes in (None, config['decode_head']['num_classes']), classes


def _check_eps(
    model: nn.Module, fixture: Fixture, translate: Callable[[str], str | None]
) -> None:
    """Every norm layer has the official eps (cases a and b hardly show it)."""
    modules = dict(model.named_modules())
    for eps, names in fixture.meta.get('norm_eps', {}).items():
        for name in names:
            ours = str(translate(f'{name}.weight')).removesuffix('.weight')
            assert modules[ours].eps == float(eps), (name, modules[ours].eps, eps)


def run_official(
    fixture: Fixture,
    official: Official,
    method: str,
    translate: Callable[[str], str | None],
) -> dict[str, Tensor]:
    """Compute all outputs of a fixture with the model that the converter names.

    Args:
        fixture: Of any size and number of modalities.
        official: The converter.
        method: Name in the fixture's variant.
        translate: From an official key to ours.

    Raises:
        NoRunner: If the variant is not built.
    """
    cases = fixture.meta['cases']
    first = next(iter(cases))
    config = official.config(fixture.official_state(first))
    _check_variant(fixture, method, config)
    # A list keeps its order, which is that of the official inputs.
    modalities = [
        dict(name=entry['stream'], channels=entry['shape'][1])
        for entry in cases[first]['inputs']
    ]
    config['backbone']['modalities'] = modalities
    config['test_cfg'] = dict(mode='whole')
    model = MODELS.build(config).eval()
    _check_eps(model, fixture, translate)
    outputs: dict[str, Tensor] = {}
    for case in cases:
        converted = convert_official(official, fixture.official_state(case))
        model.load_state_dict(converted, strict=True)
        inputs = fixture.inputs(case)
        stack = torch.cat([inputs[entry['name']] for entry in modalities], 1)
        with torch.no_grad():
            for i, fused in enumerate(model.backbone(stack), 1):
                outputs[f'{case}_fused{i}'] = fused
            outputs[f'{case}_logits'] = model(stack, mode='tensor')
    return outputs
