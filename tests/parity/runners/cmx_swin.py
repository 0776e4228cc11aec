"""Runner for the Swin variants of the official CMX repository."""

from __future__ import annotations

import torch
from torch import Tensor

from mmseg_xmodal.models.converters.cmx_swin import CMX_SWIN, cmx_swin_key
from mmseg_xmodal.registry import MODELS

from ..fixture import Fixture, NoRunner
from .pairs import check_eps, run_cases


def is_swin(fixture: Fixture) -> bool:
    """Whether the variant has Swin streams, however it is spelled."""
    constructor = fixture.meta.get('constructor') or {}
    names = (fixture.variant, str(constructor.get('backbone', '')))
    return any('swin' in name.lower() for name in names)


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
    check_eps(model, fixture, cmx_swin_key)
    return run_cases(fixture, model, CMX_SWIN, lambda fusion: fusion.fuse)
