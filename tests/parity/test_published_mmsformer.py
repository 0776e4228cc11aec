"""The published form of MMSFormer, and ours in slices, have the official numbers."""

import pytest
import torch

from mmseg_xmodal.models.converters.mmsformer import mmsformer_config
from mmseg_xmodal.models.layers import slices
from mmseg_xmodal.models.layers.mit import mit_variant
from tests.reference_forms.mix_se import Published
from tests.reference_forms.mmsformer import plain_mmsformer

from .fixture import Fixture, all_fixtures
from .runners import run
from .runners.mmsformer import REPOSITORY

FIXTURES = [f for f in all_fixtures() if REPOSITORY in f.repositories]


def _published(fixture: Fixture, case: str) -> Published:
    config = mmsformer_config(fixture.official_state(case))
    backbone, classes = config['backbone'], config['decode_head']['num_classes']
    sizes = [mit_variant(backbone['variant'])]
    extras = len(backbone['modalities']) - 1
    sizes += [mit_variant(backbone.get('extra_variant', 'mit_b1'))] * extras
    return plain_mmsformer(sizes, classes).eval()


def test_there_is_a_fixture() -> None:
    assert 'mmsformer_b2_m3' in {f.name for f in FIXTURES}


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
    fixture = next(f for f in FIXTURES if f.name == 'mmsformer_b2_m3')
    fixture.compare(run(fixture))
