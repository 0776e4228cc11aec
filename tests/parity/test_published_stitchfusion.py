"""The published form of StitchFusion, and ours in slices, have the official numbers."""

import pytest
import torch

from mmseg_xmodal.models.converters.stitchfusion import stitchfusion_config
from mmseg_xmodal.models.layers import slices
from tests.reference_forms.mix_se import Published
from tests.reference_forms.stitchfusion import plain_stitchfusion

from .fixture import Fixture, all_fixtures
from .runners import run
from .runners.stitchfusion import REPOSITORY

FIXTURES = [f for f in all_fixtures() if REPOSITORY in f.repositories]


def _published(fixture: Fixture, case: str) -> Published:
    config = stitchfusion_config(fixture.official_state(case))
    backbone, classes = config['backbone'], config['decode_head']['num_classes']
    count = len(backbone['modalities'])
    return plain_stitchfusion(backbone['variant'], count, classes).eval()


def test_there_is_a_fixture() -> None:
    assert 'stitchfusion_b2_m3' in {f.name for f in FIXTURES}


@pytest.mark.parametrize('fixture', FIXTURES, ids=lambda f: f.name)
@pytest.mark.parametrize('case', ['a', 'b', 'e'])
def test_published_form_has_the_official_numbers(fixture: Fixture, case: str) -> None:
    model = _published(fixture, case)
    model.load_state_dict(fixture.official_state(case), strict=True)
    inputs = list(fixture.inputs(case).values())
    with torch.no_grad():
        logits = model(torch.cat(inputs, 1))
    name = f'{case}_logits'
    spec = fixture.meta['outputs'][name]
    official = torch.from_numpy(fixture.arrays()[name])
    torch.testing.assert_close(logits, official, rtol=spec['rtol'], atol=spec['atol'])


def test_inference_in_slices_has_the_official_numbers(monkeypatch) -> None:
    monkeypatch.setattr(slices, '_ELEMENTS', 1000)
    fixture = next(f for f in FIXTURES if f.name == 'stitchfusion_b2_m3')
    fixture.compare(run(fixture))
