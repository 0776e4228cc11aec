"""The plain published form of GeminiFusion against the numbers of the official code."""

from pathlib import Path

import pytest
import torch
from torch import nn

from mmseg_xmodal.models.converters import convert_official
from mmseg_xmodal.models.converters.geminifusion import GEMINIFUSION
from mmseg_xmodal.models.layers import slices
from mmseg_xmodal.registry import MODELS
from tests.reference_forms.geminifusion import (
    PublishedGeminiFusion,
    PublishedGeminiSwin,
)

from .fill import checksum, fill_state
from .fixture import Fixture, NoRunner, all_fixtures, logits_cases
from .make_fixtures import config_of, norm_eps, official_shapes
from .runners import find_runner, run
from .runners.geminifusion import (
    REPOSITORY,
    STREAMS,
    gemini_config,
    is_swin,
    run_geminifusion,
)

FIXTURES = [f for f in all_fixtures() if find_runner(f) is run_geminifusion]
CASES = logits_cases(FIXTURES, 'logits_ens')
# As the official constructor calls them.
SWIN = {
    'swin_tiny': 'swin_t',
    'swin_small': 'swin_s',
    'swin_large': 'swin_l',
    'swin_large_window12': 'swin_l_384',
    'swin_large_window12_to_1k': 'swin_l_384',
}


def test_there_is_a_fixture() -> None:
    cases = {case for f, case in CASES if f.name == 'geminifusion_mit_b0'}
    assert cases == {'a', 'b', 'e'}


def _published(fixture: Fixture) -> PublishedGeminiFusion:
    config = config_of(gemini_config, fixture)
    backbone, head = config['backbone'], config['decode_head']
    form = PublishedGeminiSwin if is_swin(fixture) else PublishedGeminiFusion
    return form(
        backbone['variant'],
        cross_heads=backbone['num_heads'],
        embed_dim=head['channels'],
        num_classes=head['num_classes'],
    ).eval()


@pytest.mark.parametrize(
    ('fixture', 'case'),
    CASES,
    ids=lambda v: getattr(v, 'name', v),
)
def test_published_form_has_the_official_numbers(fixture: Fixture, case: str) -> None:
    model = _published(fixture)
    model.load_state_dict(fixture.official_state(case), strict=True)
    inputs, streams = fixture.inputs(case), fixture.streams(case)
    stack = torch.cat([inputs[name] for name in streams], 1)
    with torch.no_grad():
        logits = dict(zip(streams, model.outputs(stack), strict=True))
        logits |= dict(zip(STREAMS, logits.values(), strict=True))
        logits['ens'] = model(stack)
    specs = fixture.meta['outputs']
    for name, ours in logits.items():
        if f'{case}_logits_{name}' in specs:
            fixture.check(f'{case}_logits_{name}', ours, specs[f'{case}_logits_{name}'])


def test_inference_in_slices_has_the_official_numbers(monkeypatch) -> None:
    monkeypatch.setattr(slices, '_ELEMENTS', 1000)
    fixture = next(f for f in FIXTURES if f.name == 'geminifusion_mit_b0')
    fixture.compare(run(fixture))


# No fixture of official numbers has a Swin: one is made of the published form.


def _swin_fixture(backbone: str, form: nn.Module, fill: bool = True) -> Fixture:
    """A fixture as official code would make it, but for the numbers."""
    shapes = official_shapes(form)
    inputs = [
        dict(name=f'a.{stream}', stream=stream, shape=[1, 3, 64, 96])
        for stream in ('depth', 'rgb')
    ]
    case = dict(inputs=inputs, small=True)
    # An official Swin has 8 heads of fusion, whatever n_heads says.
    meta = dict(
        repository=REPOSITORY,
        variant=backbone,
        constructor=dict(backbone=backbone, num_classes=40, n_heads=4),
        state_dict=shapes,
        norm_eps=norm_eps(form),
        cases=dict(a=case),
    )
    if fill:
        meta['fill_checksum_small'] = checksum(fill_state(shapes, small=True))
    return Fixture(backbone, meta, Path(backbone))


def test_runner_of_swin_has_the_published_numbers() -> None:
    form = PublishedGeminiSwin('swin_t').eval()
    fixture = _swin_fixture('swin_tiny', form)
    form.load_state_dict(fixture.official_state('a'), strict=True)
    outputs = run(fixture)
    inputs = fixture.inputs('a')
    stack = torch.cat([inputs[name] for name in STREAMS], 1)
    with torch.no_grad():
        expected = dict(a_logits_ens=form(stack))
        pairs = zip(STREAMS, form.maps(stack), form.outputs(stack), strict=True)
        for name, maps, logits in pairs:
            expected[f'a_logits_{name}'] = logits
            expected |= {f'a_{name}{i}': level for i, level in enumerate(maps, 1)}
    assert outputs.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(outputs[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('backbone', SWIN)
def test_runner_builds_every_official_swin(backbone: str) -> None:
    with torch.device('meta'):
        form = PublishedGeminiSwin(SWIN[backbone])
        fixture = _swin_fixture(backbone, form, fill=False)
        config = gemini_config(fixture)
        shapes = fixture.meta['state_dict']
        official = {key: torch.empty(shape) for key, shape in shapes.items()}
        model = MODELS.build(config)
        converted = convert_official(GEMINIFUSION, official)
        model.load_state_dict(converted, strict=True)
    # What the name says is what the shapes say.
    read = GEMINIFUSION.config(official)
    assert config['backbone']['variant'] == SWIN[backbone]
    assert config['backbone']['num_heads'] == 8
    assert config['decode_head'] == read['decode_head']


def test_unknown_sizes_have_no_runner() -> None:
    with torch.device('meta'):
        form = PublishedGeminiSwin('swin_b')
    with pytest.raises(NoRunner, match='swin_base'):
        run(_swin_fixture('swin_base', form, fill=False))
