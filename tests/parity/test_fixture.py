"""What fixtures state in several ways: slices, tolerances, repositories."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from .fill import fill_state
from .fixture import Fixture, NoRunner, parse_slicing, parse_tolerance
from .make_fixtures import fill_parts
from .runners import find_runner, run
from .runners.cmnext import run_cmnext
from .runners.cmx import run_cmx
from .runners.mic import run_mic
from .runners.mtl_balancing import run_mtl_balancing
from .runners.stitchfusion import run_stitchfusion


def _fixture(folder: Path, arrays: dict, **meta) -> Fixture:
    path = folder / 'made.json'
    np.savez(path.with_suffix('.npz'), **arrays)
    return Fixture('made', meta, path)


def test_slicing_may_be_an_index(tmp_path) -> None:
    values = torch.arange(24.0).view(2, 3, 4)
    slices = {
        '[0]': np.s_[0],
        '[1, :, ::2]': np.s_[1, :, ::2],
        '[:, -1]': np.s_[:, -1],
        '[..., ::2]': np.s_[..., ::2],
        '[..., 1]': np.s_[..., 1],
    }
    for text, place in slices.items():
        expected = values.numpy()[place]
        assert np.array_equal(values[parse_slicing(text)].numpy(), expected), text
        spec = dict(slicing=text, rtol=0.0, atol=0.0)
        fixture = _fixture(tmp_path, dict(a=expected), outputs=dict(a=spec))
        fixture.compare(dict(a=values))


@pytest.mark.parametrize(
    ('stated', 'expected'),
    [
        (dict(rtol=1e-4, atol=1e-5), dict(rtol=1e-4, atol=1e-5)),
        (dict(rtol=1e-3, note='rtol 0.5 in bfloat16'), dict(rtol=1e-3)),
        # One number bounds the difference.
        (1e-6, dict(rtol=0.0, atol=1e-6)),
        (dict(values='rtol 1e-6', shares='atol 1e-4'), dict(rtol=1e-6, atol=1e-4)),
        # The strictest, where no text is known to be that of the array.
        (dict(values='rtol 1e-6', grads='rtol 1e-2'), dict(rtol=1e-6)),
        ('rtol 1e-6 and atol 1e-7, but rtol 1e-2 in half', dict(rtol=1e-6, atol=1e-7)),
    ],
)
def test_tolerance_may_be_numbers(stated, expected: dict) -> None:
    assert parse_tolerance(stated) == expected


@pytest.mark.parametrize(
    ('called', 'expected'),
    [
        ('a.grad', dict(rtol=1e-2)),
        ('GLS.combined_grad', dict(rtol=1e-2)),
        ('a.value', dict(rtol=1e-6)),
        ('mask.grads', dict(rtol=1e-2)),
        ('class_mask uint8', {}),
        ('a.other float32', dict(rtol=1e-3, atol=1e-4)),
        # Both speak of it.
        ('value_and_grad', dict(rtol=1e-6)),
        # None does.
        ('a.gradual', dict(rtol=1e-6, atol=1e-4)),
    ],
)
def test_tolerance_of_several_texts_is_that_of_the_array(called, expected) -> None:
    stated = {
        'values': 'rtol 1e-6',
        'grads': 'rtol 1e-2',
        'masks, class lists': 'exact',
        'float32 outputs': 'rtol 1e-3, atol 1e-4',
    }
    assert parse_tolerance(stated, called) == expected


def test_several_texts_are_those_of_their_arrays(tmp_path) -> None:
    arrays = {'a.values': np.ones(2), 'a.grads': np.ones(2), 'a.rest': np.ones(2)}
    stated = {'values': 'rtol 1e-6', 'grads': 'rtol 1e-2'}
    fixture = _fixture(tmp_path, arrays, tolerance=stated)
    near = {'a.values': 9e-7, 'a.grads': 9e-3, 'a.rest': 9e-7}
    outputs = {name: torch.ones(2).double() + near[name] for name in arrays}
    fixture.compare(outputs)
    for name in arrays:
        with pytest.raises(AssertionError, match=name):
            fixture.compare(outputs | {name: outputs[name] + near[name]})


def test_nothing_that_is_recorded_is_left_out(tmp_path) -> None:
    arrays = {'a': np.ones(2), 'b': np.ones(2), 'c': np.array([True, False])}
    fixture = _fixture(tmp_path, arrays, tolerance='atol 0.1')
    outputs = {name: torch.from_numpy(array) for name, array in arrays.items()}
    # What is computed but not recorded is no matter.
    assert set(fixture.compare(outputs | dict(d=torch.ones(1)))) == set(arrays)
    del outputs['b']
    with pytest.raises(AssertionError, match=r"\['b'\]"):
        fixture.compare(outputs)
    assert set(fixture.compare(outputs, without=['b'])) == {'a', 'c'}


def test_weights_are_told_apart_by_their_prefix() -> None:
    parts = {'head.': nn.Linear(2, 3), 'decode_head.': nn.Linear(3, 2)}
    shapes = fill_parts(parts)['state_dict']
    assert list(shapes) == [f'{p}{k}' for p in parts for k in ('weight', 'bias')]
    expected = fill_state(shapes)
    for prefix, part in parts.items():
        assert torch.equal(part.weight, expected[f'{prefix}weight'])


def test_tolerance_of_numbers_is_that_of_every_array(tmp_path) -> None:
    arrays = {'crop.map': np.ones(2), 'full.map': np.ones(2), 'n': np.ones(2)}
    tolerance = dict(rtol=0.0, atol=1e-5, full=dict(rtol=0.0, atol=1e-3))
    sections = dict(n=dict(tolerance=0.1), map='a text, no section')
    fixture = _fixture(tmp_path, arrays, tolerance=tolerance, sections=sections)
    near = {'crop.map': 9e-6, 'full.map': 9e-4, 'n': 0.09}
    outputs = {name: torch.ones(2).double() + near[name] for name in arrays}
    fixture.compare(outputs)
    for name, value in outputs.items():
        with pytest.raises(AssertionError, match=name):
            fixture.compare(outputs | {name: value + near[name]})


def test_tolerance_lacks_one_half(tmp_path) -> None:
    fixture = _fixture(
        tmp_path, dict(a=np.ones(2)), tolerance=dict(atol=0.1), sections={}
    )
    fixture.compare(dict(a=torch.full((2,), 1.09).double()))
    with pytest.raises(AssertionError, match='output a'):
        fixture.compare(dict(a=torch.full((2,), 1.11).double()))


SERVED = {
    'https://github.com/InSAI-Lab/DELIVER': run_cmnext,
    'jamycheung/DELIVER': run_cmnext,
    'git@github.com:JamyCheung/deliver.git': run_cmnext,
    'https://github.com/LiBingyu01/StitchFusion': run_stitchfusion,
    'http://www.github.com/huaaaliu/rgbx_semantic_segmentation/': run_cmx,
    'github.com/huaaaliu/RGBX_Semantic_Segmentation.git': run_cmx,
    'huaaaliu/RGBX_Semantic_Segmentation @ e251d860': run_cmx,
    'https://github.com/vikolss/DACS': run_mic,
    'https://github.com/valeoai/ADVENT': run_mic,
    'https://github.com/YanchaoYang/FDA': run_mic,
    'https://github.com/lhoyer/DAFormer': run_mic,
    'https://github.com/lhoyer/HRDA/tree/master': run_mic,
    'SimonVandenhende/Multi-Task-Learning-PyTorch': run_mtl_balancing,
}


@pytest.mark.parametrize('repository', SERVED)
def test_repository_is_found_however_it_is_spelled(repository: str, tmp_path) -> None:
    for stated in (repository, [repository], ['elsewhere', repository]):
        fixture = Fixture('made', dict(repository=stated), tmp_path / 'made.json')
        assert find_runner(fixture) is SERVED[repository]


@pytest.mark.parametrize(
    'repository',
    ['CMX', 'huaaaliu', 'https://gitlab.com/lhoyer/MIC', 'lhoyer/MICE', 'a/lhoyer/MIC'],
)
def test_other_repositories_have_no_runner(repository: str, tmp_path) -> None:
    fixture = Fixture('made', dict(repository=repository), tmp_path / 'made.json')
    with pytest.raises(NoRunner, match='made.*' + repository):
        run(fixture)
