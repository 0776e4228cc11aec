"""The plain published form of CMNeXt against the numbers of the official code."""

import pytest
import torch

from tests.reference_forms.cmnext import PublishedCMNeXt

from .fill import checksum, fill_state
from .fixture import Fixture, all_fixtures
from .runners import run

REPOSITORY = 'https://github.com/jamycheung/DELIVER'
FIXTURES = [f for f in all_fixtures() if REPOSITORY in f.repositories]


def _published(fixture: Fixture) -> PublishedCMNeXt:
    inputs = next(iter(fixture.meta['cases'].values()))['inputs']
    places = [[slice(3 * i, 3 * i + 3)] for i in range(len(inputs))]
    classes = fixture.meta['constructor']['num_classes']
    variant = fixture.variant.lower().replace('-', '_')
    return PublishedCMNeXt(variant, places, num_classes=classes).eval()


def test_there_is_a_fixture() -> None:
    assert 'cmnext_b2_m1' in {f.name for f in FIXTURES}


@pytest.mark.parametrize('fixture', FIXTURES, ids=lambda f: f.name)
@pytest.mark.parametrize('case', ['a', 'b', 'e'])
def test_published_form_has_the_official_numbers(fixture: Fixture, case: str) -> None:
    model = _published(fixture)
    model.load_state_dict(fixture.official_state(case), strict=True)
    with torch.no_grad():
        logits = model(torch.cat(list(fixture.inputs(case).values()), 1))
    spec = fixture.meta['outputs'][f'{case}_logits']
    official = torch.from_numpy(fixture.arrays()[f'{case}_logits'])
    torch.testing.assert_close(logits, official, rtol=spec['rtol'], atol=spec['atol'])


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
