"""The published form of StitchFusion, and ours in slices, have the official numbers."""

import pytest
import torch

from mmseg_xmodal.models.converters.stitchfusion import stitchfusion_key
from mmseg_xmodal.models.layers import slices
from mmseg_xmodal.models.layers.mit import mit_variant
from tests.reference_forms.mix_se import Published
from tests.reference_forms.stitchfusion import StitchFusion

from .fixture import Fixture, all_fixtures, logits_cases
from .make_fixtures import config_of
from .runners import find_runner, run
from .runners.stitchfusion import official_config, run_stitchfusion

FIXTURES = [f for f in all_fixtures() if find_runner(f) is run_stitchfusion]
CASES = logits_cases(FIXTURES)


def _published(fixture: Fixture) -> Published:
    config = config_of(official_config, fixture)
    backbone, head = config['backbone'], config['decode_head']
    size, count = mit_variant(backbone['variant']), len(backbone['modalities'])
    rates = [[0.0] * depth for depth in size.depths]
    form = StitchFusion(size, count, rates, backbone['sharing'], 0.0)
    return Published(
        form,
        None,
        size.embed_dims,
        stitchfusion_key,
        head['channels'],
        head['num_classes'],
    ).eval()


def test_there_is_a_fixture() -> None:
    cases = {case for f, case in CASES if f.name == 'stitchfusion_b2_m3'}
    assert cases == {'a', 'b', 'e'}


@pytest.mark.parametrize(
    ('fixture', 'case'), CASES, ids=lambda v: getattr(v, 'name', v)
)
def test_published_form_has_the_official_numbers(fixture: Fixture, case: str) -> None:
    model = _published(fixture)
    model.load_state_dict(fixture.official_state(case), strict=True)
    inputs = list(fixture.inputs(case).values())
    with torch.no_grad():
        logits = model(torch.cat(inputs, 1))
    name = f'{case}_logits'
    fixture.check(name, logits, fixture.meta['outputs'][name])


def test_inference_in_slices_has_the_official_numbers(monkeypatch) -> None:
    monkeypatch.setattr(slices, '_ELEMENTS', 1000)
    fixture = next(f for f in FIXTURES if f.name == 'stitchfusion_b2_m3')
    fixture.compare(run(fixture))
