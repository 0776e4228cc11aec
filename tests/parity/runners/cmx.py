"""Runner for the official CMX repository; its Swin variants have one of their own."""

from __future__ import annotations

from torch import Tensor

from mmseg_xmodal.models.converters.cmx import CMX, cmx_key
from mmseg_xmodal.registry import MODELS

from ..fixture import Fixture
from .cmx_swin import is_swin, run_cmx_swin
from .names import require_mit
from .norms import check_eps
from .pairs import pair_config, run_cases

REPOSITORY = 'https://github.com/huaaaliu/RGBX_Semantic_Segmentation'


def cmx_config(fixture: Fixture) -> dict:
    """Our config of the fixture's variant, decoder and class count.

    The size is the one that the weights have: the official builder takes B2 for a name
    that it does not know (``mit_b3``), and the class of B0 for ``mit_b1``.

    Raises:
        NoRunner: If the variant or the decoder is not built yet.
    """
    require_mit(fixture, 'cmx')
    return pair_config(fixture, CMX)


def run_cmx(fixture: Fixture) -> dict[str, Tensor]:
    """Compute all outputs of a CMX fixture.

    Raises:
        NoRunner: If the variant or the decoder is not built yet.
    """
    if is_swin(fixture):
        return run_cmx_swin(fixture)
    model = MODELS.build(cmx_config(fixture)).eval()
    check_eps(model, fixture, cmx_key)
    return run_cases(fixture, model, CMX, lambda fusion: fusion)
