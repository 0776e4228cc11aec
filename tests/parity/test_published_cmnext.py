"""The plain published form of CMNeXt against the numbers of the official code."""

import pytest
import torch

from tests.reference_forms.cmnext import PublishedCMNeXt

from .fill import checksum, fill_state
from .fixture import Fixture, all_fixtures, logits_cases
from .make_fixtures import config_of
from .runners import find_runner, run
from .runners.cmnext import REPOSITORY, cmnext_config, run_cmnext

FIXTURES = [f for f in all_fixtures() if find_runner(f) is run_cmnext]
CASES = logits_cases(FIXTURES)


def _published(fixture: Fixture) -> PublishedCMNeXt:
    config = config_of(cmnext_config, fixture)
    backbone, head = config['backbone'], config['decode_head']
    places, start = [], 0
    for modality in backbone['modalities']:
        places.append([slice(start, start + modality['channels'])])
        start += modality['channels']
    return PublishedCMNeXt(
        backbone['variant'],
        places,
        (backbone['modalities'][0]['channels'], backbone.get('extra_channels', 3)),
        embed_dim=head['channels'],
        num_classes=head['num_classes'],
    ).eval()


def test_there_is_a_fixture() -> None:
    cases = {(fixture.name, case) for fixture, case in CASES}
    assert cases >= {('cmnext_b2_m1', case) for case in 'abe'}


@pytest.mark.parametrize(
    ('fixture', 'case'), CASES, ids=lambda v: getattr(v, 'name', v)
)
def test_published_form_has_the_official_numbers(fixture: Fixture, case: str) -> None:
    model = _published(fixture)
    model.load_state_dict(fixture.official_state(case), strict=True)
    with torch.no_grad():
        logits = model(torch.cat(list(fixture.inputs(case).values()), 1))
    name = f'{case}_logits'
    fixture.check(name, logits, fixture.meta['outputs'][name])


def test_inference_in_slices_has_the_official_numbers(monkeypatch) -> None:
    from mmseg_xmodal.models.layers import slices

    monkeypatch.setattr(slices, '_ELEMENTS', 1000)
    fixture = next(f for f in FIXTURES if f.name == 'cmnext_b2_m1')
    fixture.compare(run(fixture))


@pytest.mark.parametrize('extras', [[], ['depth', 'event', 'lidar']])
def test_runner_maps_any_number_of_modalities(extras: list[str], tmp_path) -> None:
    """Against the published form, with RGB alone and with all of DELIVER."""
    names = ['img', *extras]
    places = [[slice(3 * i, 3 * i + 3)] for i in range(len(names))]
    published = PublishedCMNeXt('cmnext_b2', places, num_classes=7).eval()
    shapes = {k: list(v.shape) for k, v in published.state_dict().items()}
    case = dict(
        small=False,
        inputs=[dict(name=f'a.{n}', stream=n, shape=[1, 3, 40, 72]) for n in names],
    )
    meta = dict(
        repository=[REPOSITORY],
        variant='CMNeXt-B2',
        constructor=dict(backbone='CMNeXt-B2', num_classes=7, modals=names),
        state_dict=shapes,
        cases=dict(a=case),
        fill_checksum=checksum(fill_state(shapes)),
    )
    fixture = Fixture('made_here', meta, tmp_path / 'made_here.json')
    published.load_state_dict(fixture.official_state('a'), strict=True)
    outputs = run(fixture)
    with torch.no_grad():
        expected = published(torch.cat(list(fixture.inputs('a').values()), 1))
    torch.testing.assert_close(outputs['a_logits'], expected, rtol=1e-4, atol=2e-5)
    wanted = {f'a_fused{i}' for i in range(1, 5)} | {'a_logits'}
    if extras:
        wanted |= {f'a_rect{i}_{s}' for i in range(1, 5) for s in ('rgb', 'x')}
    assert outputs.keys() >= wanted
