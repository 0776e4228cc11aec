"""Runner for the official MIC repository: DAFormer's head, HRDA, adaptation."""

from __future__ import annotations

from torch import Tensor

from ..fixture import Fixture, NoRunner
from .daformer_head import run_daformer_head
from .hrda_fusion import run_hrda_fusion
from .uda_ops import run_uda_ops

REPOSITORY = 'https://github.com/lhoyer/MIC'


def run_mic(fixture: Fixture) -> dict[str, Tensor]:
    """Tell the fixtures of the repository by what they hold, and run one.

    Raises:
        NoRunner: If it is of another kind.
    """
    keys = fixture.meta.get('state_dict', {})
    if any(key.startswith('decode_head.scale_attention.') for key in keys):
        return run_hrda_fusion(fixture)
    if any(key.startswith('decode_head.embed_layers.') for key in keys):
        return run_daformer_head(fixture)
    if not keys and 'sections' in fixture.meta:
        return run_uda_ops(fixture)
    raise NoRunner(f'{fixture.name}: no runner for this part of {REPOSITORY}')
