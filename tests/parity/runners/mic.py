"""Runner for the official MIC repository: DAFormer's head, HRDA, adaptation."""

from __future__ import annotations

from torch import Tensor

from ..fixture import Fixture, NoRunner
from .adaptation_network import run_network
from .daformer_head import run_daformer_head
from .hrda_fusion import run_hrda_fusion
from .uda_ops import run_uda_ops

REPOSITORY = 'https://github.com/lhoyer/MIC'


def run_mic(fixture: Fixture) -> dict[str, Tensor]:
    """Tell the fixtures of the repository by what they hold, and run one.

    Raises:
        NoRunner: If it is of another kind, or of a variant that we do not have.
    """
    keys = [key.removeprefix('model.') for key in fixture.meta.get('state_dict') or {}]
    if any(key.startswith('backbone.') for key in keys):
        return run_network(fixture)
    if any(key.startswith('decode_head.scale_attention.') for key in keys):
        return run_hrda_fusion(fixture)
    if any(key.startswith('decode_head.') for key in keys):
        return run_daformer_head(fixture)
    inputs = fixture.meta.get('inputs') or []
    # The cases of HRDA without the whole head have no weights.
    if 'cases' in fixture.meta and (
        any(i['name'].startswith('hrda.') for i in inputs)
        or 'crop_sampling' in fixture.meta['cases']
    ):
        return run_hrda_fusion(fixture)
    if 'sections' in fixture.meta:
        return run_uda_ops(fixture)
    raise NoRunner(f'{fixture.name}: no runner for this part of {REPOSITORY}')
