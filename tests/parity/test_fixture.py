"""What fixtures state in several ways: slices, tolerances, repositories."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from .fixture import Fixture, NoRunner, parse_slicing, parse_tolerance
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
    ],
)
def test_tolerance_may_be_numbers(stated, expected: dict) -> None:
    assert parse_tolerance(stated) == expected


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
