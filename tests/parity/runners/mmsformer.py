"""Runner for the official MMSFormer repository."""

from __future__ import annotations

from torch import Tensor

from mmseg_xmodal.models.converters.mmsformer import MMSFORMER, mmsformer_key

from ..fixture import Fixture
from .mix_se import run_official
from .names import require_mit

REPOSITORY = 'https://github.com/CSIPlab/MMSFormer'


def official_config(fixture: Fixture) -> dict:
    """What the converter reads from the weights.

    Raises:
        NoRunner: If the variant is not built.
    """
    require_mit(fixture, 'mmsformer')
    return MMSFORMER.config(fixture.shapes())


def run_mmsformer(fixture: Fixture) -> dict[str, Tensor]:
    """Compute all outputs of an MMSFormer fixture.

    Raises:
        NoRunner: If the variant is not built.
    """
    return run_official(fixture, MMSFORMER, 'mmsformer', mmsformer_key)
