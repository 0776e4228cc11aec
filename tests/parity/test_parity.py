"""Our numbers against those of official code.

Folders: ``fixtures`` beside this file, and ``$XMODAL_PARITY_FIXTURES``. A fixture that
nothing can run yet, or not all of it, is one expected failure with its name after the
rest has been compared; those of ``BUILT`` must run.
"""

import dataclasses
import json
import re

import pytest
import torch

from mmseg_xmodal.models.layers import slices
from tests.reference_forms.cmx import PublishedCMX

from .fill import checksum, fill_state, make_uniform
from .fixture import (
    HERE,
    VARIABLE,
    Fixture,
    NoRunner,
    all_fixtures,
    parse_slicing,
    parse_tolerance,
)
from .runners import RUNNERS, run, run_and_compare

FIXTURES = all_fixtures()
# Methods that are built: a runner or a fixture that is lost is a failure.
BUILT = {
    'cmnext_b2_m1',
    'cmx_mit_b0',
    'cmx_swin_s',
    'daformer_head',
    'dformer_tiny',
    'dformerv2_s',
    'geminifusion_mit_b0',
    'hrda_fusion',
    'mmsformer_b2_m3',
    'mtl_balancing',
    'stitchfusion_b2_m3',
    'uda_ops',
}


def _compare(fixture: Fixture) -> dict[str, float]:
    """Run and compare; what has no runner is an expected failure, the rest is not."""
    try:
        return run_and_compare(fixture)
    except NoRunner as reason:
        if fixture.name in BUILT:
            raise
        pytest.xfail(str(reason))


@pytest.mark.parametrize('fixture', FIXTURES, ids=lambda f: f.name)
def test_parity(fixture: Fixture, capsys: pytest.CaptureFixture) -> None:
    differences = _compare(fixture)
    with capsys.disabled():
        print(
            f' {max(differences.values()):.1e} over {len(differences)} arrays', end=''
        )


def _fixture(name: str) -> Fixture:
    return next(f for f in FIXTURES if f.name == name)


def test_no_fixture_of_a_built_method_is_lost() -> None:
    assert {f.name for f in FIXTURES} >= BUILT


@pytest.mark.parametrize('name', sorted(BUILT))
def test_a_lost_runner_is_no_expected_failure(name: str, monkeypatch) -> None:
    for repository in _fixture(name).repositories:
        monkeypatch.delitem(RUNNERS, repository, raising=False)
    with pytest.raises((NoRunner, pytest.xfail.Exception), match=name) as error:
        _compare(_fixture(name))
    assert error.type is NoRunner


def test_cmx_is_run() -> None:
    assert set(run(_fixture('cmx_mit_b0'))) >= {'a_logits', 'b_logits', 'e_logits'}


def test_inference_in_slices_has_the_official_numbers(monkeypatch) -> None:
    monkeypatch.setattr(slices, '_ELEMENTS', 1000)
    fixture = _fixture('cmx_mit_b0')
    fixture.compare(run(fixture))


def test_parity_sees_a_wrong_number() -> None:
    fixture = _fixture('cmx_mit_b0')
    outputs = run(fixture)
    outputs['e_logits'] = outputs['e_logits'] + 1e-5
    with pytest.raises(AssertionError, match='e_logits'):
        fixture.compare(outputs)
    del outputs['e_logits']
    with pytest.raises(AssertionError, match='e_logits'):
        fixture.compare(outputs)


@pytest.mark.parametrize('case', ['a', 'b', 'e'])
def test_published_form_has_the_official_numbers(case: str) -> None:
    fixture = _fixture('cmx_mit_b0')
    model = PublishedCMX('mit_b0').eval()
    model.load_state_dict(fixture.official_state(case), strict=True)
    inputs = fixture.inputs(case)
    with torch.no_grad():
        logits = model(torch.cat([inputs['rgb'], inputs['x']], 1))
    name = f'{case}_logits'
    spec = fixture.meta['outputs'][name]
    official = torch.from_numpy(fixture.arrays()[name])
    torch.testing.assert_close(logits, official, rtol=spec['rtol'], atol=spec['atol'])


def test_folder_of_the_variable(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / 'nowhere'))
    with pytest.raises(FileNotFoundError, match=VARIABLE):
        all_fixtures()
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with pytest.raises(FileNotFoundError, match='no parity fixture'):
        all_fixtures()
    for name in ('cmx_mit_b0', 'new'):
        (tmp_path / f'{name}.json').write_text(
            json.dumps(dict(repository='elsewhere/'))
        )
    found = {f.name: f for f in all_fixtures()}
    assert found['extra/cmx_mit_b0'].repositories == ['elsewhere']
    assert 'RGBX' in found['cmx_mit_b0'].repositories[0]
    assert len(found) == len(list(HERE.glob('*.json'))) + 2
    with pytest.raises(NoRunner, match='new.*elsewhere'):
        run(found['new'])


def test_variants_without_runner_are_named() -> None:
    for name in ('cmx_mit_b0', 'cmx_swin_s'):
        fixture = _fixture(name)
        other = fixture.meta['constructor'] | dict(decoder='UPerNet')
        meta = fixture.meta | dict(constructor=other)
        with pytest.raises(NoRunner, match='UPerNet'):
            run(dataclasses.replace(fixture, meta=meta))


def test_slicing() -> None:
    assert parse_slicing('[:, ::8]') == (slice(None), slice(None, None, 8))
    assert parse_slicing(None) == ()


# Some fixtures have no filled weights, or several sets of them.
FILLED = [f for f in FIXTURES if isinstance(f.meta.get('fill_checksum'), str)]


@pytest.mark.parametrize('fixture', FILLED, ids=lambda f: f.name)
def test_fill_rule(fixture: Fixture) -> None:
    """The checksum proves the rule for the names of these fixtures, run or not."""
    state = fill_state(fixture.meta['state_dict'])
    assert checksum(state) == fixture.meta['fill_checksum']


def test_uniform_is_in_range() -> None:
    values = make_uniform('nmf_bases', [1, 512, 64])
    assert values.min() >= 0
    assert values.max() < 1
    assert abs(values.mean() - 0.5) < 0.01


def test_tolerance() -> None:
    text = 'rtol 1e-4, atol 1e-5 unless a section says otherwise'
    assert parse_tolerance(text) == dict(rtol=1e-4, atol=1e-5)
    assert parse_tolerance('compare with rtol 0.5') == dict(rtol=0.5)


def test_balancing_is_compared_at_the_tolerances_of_its_sections() -> None:
    fixture = _fixture('mtl_balancing')
    outputs = run(fixture)
    assert {'B.PCGrad.mixed.weights', 'FAMO.step1.logits_after'} <= set(outputs)
    for name, change in [('UW.weights', 2e-4), ('MGDA.l2.weights', 2e-3)]:
        fixture.compare(outputs | {name: outputs[name] + change / 4})
        with pytest.raises(AssertionError, match=re.escape(name)):
            fixture.compare(outputs | {name: outputs[name] + change})
