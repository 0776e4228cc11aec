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
from .fixture import Fixture, NoRunner, all_fixtures
from .runners import run
from .runners.geminifusion import (
    REPOSITORY,
    STREAMS,
    SWIN,
    find_variant,
    gemini_config,
)

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


# No fixture of official numbers has a Swin: one is made of the published form.


def _swin_fixture(backbone: str, form: nn.Module, fill: bool = True) -> Fixture:
    """A fixture as official code would make it, but for the numbers."""
    shapes = {key: list(value.shape) for key, value in form.state_dict().items()}
    for key in [key for key in shapes if key.endswith('relative_position_bias_table')]:
        side = (round(shapes[key][0] ** 0.5) + 1) // 2
        index = key.replace('bias_table', 'index')
        shapes[index] = [side**2, side**2]
    eps: dict[str, list[str]] = {}
    for name, module in form.named_modules():
        if isinstance(module, (nn.LayerNorm, nn.BatchNorm2d)):
            eps.setdefault(str(module.eps), []).append(name)
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
        norm_eps=eps,
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
    assert config['backbone']['variant'] == read['backbone']['variant']
    assert config['backbone']['num_heads'] == 8
    assert config['decode_head'] == read['decode_head']


def test_unknown_sizes_have_no_runner() -> None:
    with torch.device('meta'):
        form = PublishedGeminiSwin('swin_b')
    with pytest.raises(NoRunner, match='swin_base'):
        run(_swin_fixture('swin_base', form, fill=False))
