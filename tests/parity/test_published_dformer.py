"""The published form of DFormer, whose speed ours is compared with, is the official."""

from __future__ import annotations

import pytest
import torch

from mmseg_xmodal.registry import MODELS
from tests.reference_forms.dformer import build_published_dformer

from .fixture import Fixture, all_fixtures
from .runners.dformer import dformer_config, nmf_bases, stack_inputs


def _fixture() -> Fixture:
    return next(f for f in all_fixtures() if f.name == 'dformer_tiny')


@pytest.mark.parametrize('case', ['a', 'b', 'e'])
def test_published_form_has_the_official_numbers(case: str) -> None:
    fixture = _fixture()
    model = MODELS.build(dformer_config(fixture)).eval()
    model.decode_head.nmf.set_bases(nmf_bases())
    published = build_published_dformer(model).eval()
    published.load_state_dict(fixture.official_state(case), strict=True)
    with torch.no_grad():
        logits = published(stack_inputs(fixture, case, 1))
    spec = fixture.meta['outputs'][f'{case}_logits']
    official = torch.from_numpy(fixture.arrays()[f'{case}_logits'])
    torch.testing.assert_close(logits, official, rtol=spec['rtol'], atol=spec['atol'])
