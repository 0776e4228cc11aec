"""What the runners of MMSFormer and StitchFusion share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mmseg_xmodal.models.converters import Official, convert_official
from mmseg_xmodal.registry import MODELS

from ..fixture import Fixture
from .names import check_head, require_mit
from .norms import check_eps


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
    variant = require_mit(fixture, method)
    cases = fixture.meta['cases']
    first = next(iter(cases))
    config = official.config(fixture.official_state(first))
    # Official code builds the size of the name, or none.
    read = config['backbone']['variant']
    assert read == variant, (fixture.name, read, variant)
    check_head(fixture, config['decode_head'], 'embed_dim')
    # A list keeps its order, which is that of the official inputs.
    modalities = [
        dict(name=entry['stream'], channels=entry['shape'][1])
        for entry in cases[first]['inputs']
    ]
    config['backbone']['modalities'] = modalities
    config['test_cfg'] = dict(mode='whole')
    model = MODELS.build(config).eval()
    check_eps(model, fixture, translate)
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
