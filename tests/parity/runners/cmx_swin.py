"""Runner for the Swin variants of the official CMX repository."""

from __future__ import annotations

from torch import Tensor

from mmseg_xmodal.models.converters.cmx_swin import CMX_SWIN, cmx_swin_key
from mmseg_xmodal.registry import MODELS

from ..fixture import Fixture
from .names import plain_name, stated_variant
from .norms import check_eps
from .pairs import pair_config, run_cases


def is_swin(fixture: Fixture) -> bool:
    """Whether the variant has Swin streams, however it is spelled."""
    names = (fixture.variant, stated_variant(fixture))
    return any('swin' in plain_name(name) for name in names)


def run_cmx_swin(fixture: Fixture) -> dict[str, Tensor]:
    """Compute all outputs of a fixture of CMX with Swin streams.

    Raises:
        NoRunner: If the decoder is not built.
    """
    model = MODELS.build(pair_config(fixture, CMX_SWIN)).eval()
    check_eps(model, fixture, cmx_swin_key)
    return run_cases(fixture, model, CMX_SWIN, lambda fusion: fusion.fuse)
