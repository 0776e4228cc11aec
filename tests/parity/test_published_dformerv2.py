"""The published form of DFormerv2 against the numbers of official code."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mmseg_xmodal.registry import MODELS
from tests.reference_forms.dformerv2 import PublishedDFormerv2
from tests.reference_forms.ham_head import published_ham_head

from .fill import make_uniform
from .fixture import Fixture, all_fixtures
from .runners import run
from .runners.dformerv2 import dformerv2_config

FIXTURE: Fixture = next(f for f in all_fixtures() if f.name == 'dformerv2_s')


@pytest.mark.parametrize('case', ['a', 'b', 'e'])
def test_published_form_has_the_official_numbers(case: str) -> None:
    config = dformerv2_config(FIXTURE)
    head = MODELS.build(config['decode_head'])
    head.nmf.set_bases(F.normalize(make_uniform('nmf_bases', [1, 512, 64]), dim=1))
    model = PublishedDFormerv2('dformerv2_s', published_ham_head(head)).eval()
    model.load_state_dict(FIXTURE.official_state(case), strict=True)
    inputs = FIXTURE.inputs(case)
    with torch.no_grad():
        logits = model(torch.cat([inputs['rgb'], inputs['depth'][:, :1]], 1))
    name = f'{case}_logits'
    spec = FIXTURE.meta['outputs'][name]
    official = torch.from_numpy(FIXTURE.arrays()[name])
    torch.testing.assert_close(logits, official, rtol=spec['rtol'], atol=spec['atol'])


def test_dformerv2_is_run_not_expected_to_fail() -> None:
    FIXTURE.compare(run(FIXTURE))
