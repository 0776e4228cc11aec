"""The plain published form of GeminiFusion against the numbers of the official code."""

import pytest
import torch

from mmseg_xmodal.models.layers import slices
from tests.reference_forms.geminifusion import PublishedGeminiFusion

from .fixture import Fixture, all_fixtures
from .runners import run
from .runners.geminifusion import REPOSITORY, STREAMS, find_variant

FIXTURES = [f for f in all_fixtures() if REPOSITORY in f.repositories]


def test_there_is_a_fixture() -> None:
    assert 'geminifusion_mit_b0' in {f.name for f in FIXTURES}


@pytest.mark.parametrize('fixture', FIXTURES, ids=lambda f: f.name)
@pytest.mark.parametrize('case', ['a', 'b', 'e'])
def test_published_form_has_the_official_numbers(fixture: Fixture, case: str) -> None:
    classes = fixture.meta['constructor']['num_classes']
    variant = find_variant(fixture.variant)
    model = PublishedGeminiFusion(variant, num_classes=classes).eval()
    model.load_state_dict(fixture.official_state(case), strict=True)
    inputs = fixture.inputs(case)
    stack = torch.cat([inputs[name] for name in STREAMS], 1)
    with torch.no_grad():
        rgb, depth = model.outputs(stack)
        outputs = dict(rgb=rgb, depth=depth, ens=model(stack))
    for name, ours in outputs.items():
        name = f'{case}_logits_{name}'
        spec = fixture.meta['outputs'][name]
        official = torch.from_numpy(fixture.arrays()[name])
        torch.testing.assert_close(ours, official, rtol=spec['rtol'], atol=spec['atol'])


def test_inference_in_slices_has_the_official_numbers(monkeypatch) -> None:
    monkeypatch.setattr(slices, '_ELEMENTS', 1000)
    fixture = next(f for f in FIXTURES if f.name == 'geminifusion_mit_b0')
    fixture.compare(run(fixture))
