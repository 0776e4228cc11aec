"""Runner for the official StitchFusion repository."""

from __future__ import annotations

from torch import Tensor

from mmseg_xmodal.models.converters.stitchfusion import STITCHFUSION, stitchfusion_key

from ..fixture import Fixture
from .mix_se import run_official
from .names import require_mit

REPOSITORY = (
    'https://github.com/LiBingyu01/StitchFusion-StitchFusion-Weaving-Any-Visual-'
    'Modalities-to-Enhance-Multimodal-Semantic-Segmentation'
)


def official_config(fixture: Fixture) -> dict:
    """What the converter reads from the weights.

    Raises:
        NoRunner: If the variant is not built.
    """
    require_mit(fixture, 'stitchfusion')
    return STITCHFUSION.config(fixture.shapes())


def run_stitchfusion(fixture: Fixture) -> dict[str, Tensor]:
    """Compute all outputs of a StitchFusion fixture.

    Raises:
        NoRunner: If the variant is not built.
    """
    return run_official(fixture, STITCHFUSION, 'stitchfusion', stitchfusion_key)
