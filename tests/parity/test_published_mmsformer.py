"""The published form of MMSFormer, and ours in slices, have the official numbers."""

import pytest
import torch

from mmseg_xmodal.models.layers import slices
from mmseg_xmodal.models.layers.mit import mit_variant
from tests.reference_forms.cmnext import SegFormerDecoder
from tests.reference_forms.mix_se import Published
from tests.reference_forms.mmsformer import plain_mmsformer

from .fixture import Fixture, all_fixtures, logits_cases
from .make_fixtures import config_of
from .runners import find_runner, run
from .runners.mmsformer import official_config, run_mmsformer

FIXTURES = [f for f in all_fixtures() if find_runner(f) is run_mmsformer]
CASES = logits_cases(FIXTURES)


def _published(fixture: Fixture) -> Published:
    config = config_of(official_config, fixture)
    backbone, classes = config['backbone'], config['decode_head']['num_classes']
    sizes = [mit_variant(backbone['variant'])]
    extras = len(backbone['modalities']) - 1
    sizes += [mit_variant(backbone.get('extra_variant', 'mit_b1'))] * extras
    form = plain_mmsformer(sizes, classes)
    widths, channels = sizes[0].embed_dims, config['decode_head']['channels']
    form.decode_head = SegFormerDecoder(widths, channels, classes, 1e-5, 0.1)
    return form.eval()


def test_there_is_a_fixture() -> None:
    cases = {(fixture.name, case) for fixture, case in CASES}
    assert cases >= {('mmsformer_b2_m3', case) for case in 'abe'}


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
    fixture = next(f for f in FIXTURES if f.name == 'mmsformer_b2_m3')
    fixture.compare(run(fixture))
