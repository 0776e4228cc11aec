"""Verdicts of the benchmark of attention operations, and its checks."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import pytest
import torch

from tests.benchmark_scripts import load_script

OPS = load_script('ops')
from xbench import ops_alone, ops_cases, ops_checks, ops_targets  # noqa: E402  isort: skip


def entry(name: str, dtype: str = 'fp32', mode: str = 'training', **forms: Any) -> dict:
    """A case; forms are seconds and MiB."""
    parts = {k: dict(seconds=s, mib=m) for k, (s, m) in forms.items()}
    return dict(name=name, dtype=dtype, mode=mode, bytes=300, forms=parts)


def said(found: list, cuda: bool) -> dict[str, bool]:
    results = ops_targets.verdicts(found, 100.0, cuda)
    return {v['what'].partition(': ')[2]: v['met'] for v in results}


def test_targets_of_a_gpu() -> None:
    forms = {'ours': (4.0, 20), 'grid_sample': (16.0, 90), 'mmcv (fp32)': (5.0, 20)}
    assert said([entry('deformable, x', 'bf16', **forms)], True) == {
        '1.25x mmcv (fp32), wanted 1.5x': False,
        '4.00x grid_sample, wanted 3.0x': True,
        '0.22 of the memory of grid_sample, wanted 0.25': True,
        '75% of copy bandwidth, wanted 60%': True,
    }
    # mmcv counts in training with bf16 alone, and what ran out of memory never.
    forms['grid_sample'] = (None, None)
    assert list(said([entry('deformable, x', 'fp32', **forms)], True)) == [
        '75% of copy bandwidth, wanted 60%'
    ]


def test_targets_of_a_cpu() -> None:
    forms = {'ours': (4.0, 50), 'grid_sample': (3.0, 40)}
    assert said([entry('deformable, x', **forms)], False) == {
        '0.75x grid_sample, wanted 1.0x': False,
        '1.25 of the memory of grid_sample, wanted 1.0': False,
    }


@pytest.mark.parametrize('cuda', [True, False])
def test_memory_of_criss_cross(cuda: bool) -> None:
    forms = {'ours': (1.0, 30), 'einsum': (1.0, 100)}
    found = [entry(f'criss-cross, {s}', **forms) for s in ('97x97', '128x256')]
    assert said([*found, entry('modality, 2 x 8x8', **forms)], cuda) == {
        '0.30 of the memory of einsum, wanted 0.25': False
    }


def test_a_check_that_cannot_run_is_one_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def broken() -> None:
        raise RuntimeError('does not compile')

    checks = [('first', broken), ('second', lambda: None)]
    monkeypatch.setattr(ops_checks, 'all_checks', lambda device: checks)
    found = OPS.run_checks('cpu')
    assert found == {'first': 'RuntimeError: does not compile', 'second': ''}
    assert 'FAILED first: RuntimeError' in capsys.readouterr().err


def test_some_cases_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(ops_checks, 'all_checks', lambda device: [])
    small = ['--device', 'cpu', '--quick', '--repeats', '1']
    OPS.main([*small, '--only', '^criss|decoder'])
    table = capsys.readouterr().out
    assert 'criss-cross, 8x12' in table
    assert 'deformable, decoder, small' in table
    assert 'modality' not in table
    with pytest.raises(SystemExit):
        OPS.main([*small, '--only', 'nothing'])
    assert "--only 'nothing' fits none of the cases" in capsys.readouterr().err


def test_a_kernel_that_fails_does_not_hide_the_other_checks() -> None:
    """The cases are made before any check runs, without a run of ours."""

    def broken(*tensors: torch.Tensor) -> torch.Tensor:
        raise RuntimeError('does not compile')

    x = torch.zeros(2, 3)
    case = ops_cases._dense('name', 'fp32', [x, x, x], {'ours': broken}, x)
    assert (case.bytes, case.bytes_training) == (4 * 24, 4 * (2 * 24 + 18))


def test_a_baseline_that_needs_too_much_memory_is_a_row() -> None:
    def greedy(*tensors: torch.Tensor) -> torch.Tensor:
        raise torch.cuda.OutOfMemoryError('too much')

    x = torch.rand(4, 4)
    forms = {'ours': torch.mul, 'plain': greedy}
    case = ops_cases._dense('name', 'fp32', [x, x], forms, x)
    args = OPS.parse_args(['--device', 'cpu', '--repeats', '1'])
    found = OPS.measure_case(case, 'training', args)
    assert found['forms']['plain'] == dict(seconds=None, mib=None)


@pytest.mark.parametrize(
    ('options', 'name'),
    [
        ([], 'benchmarks/some_gpu_80gb.json'),
        (['--only', 'criss'], None),
        (['--dtypes', 'bf16'], None),
        (['--quick'], None),
    ],
)
def test_a_part_does_not_replace_the_whole_table(monkeypatch, options, name) -> None:
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda _: 'Some GPU-80GB')
    assert OPS.default_name(OPS.parse_args(options)) == name


def test_a_stack_without_mmcv_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, 'find_spec', lambda n: None if n == 'mmcv' else found(n)
    )
    for name in [n for n in sys.modules if n.split('.')[0] == 'mmseg_xmodal']:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(importlib, 'import_module', sys.modules.get)
    ops_alone.import_ops()
    assert sys.modules['mmseg_xmodal'].__spec__ is None


def test_a_stack_that_does_not_fit_is_none(monkeypatch, capsys) -> None:
    def refuse(name: str) -> Any:
        assert name != 'mmseg', 'MMCV is incompatible'
        return sys.modules.get(name)

    for name in [n for n in sys.modules if n.split('.')[0] == 'mmseg_xmodal']:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(importlib, 'import_module', refuse)
    ops_alone.import_ops()
    assert sys.modules['mmseg_xmodal'].__spec__ is None
    assert 'mmseg cannot be imported (MMCV is incomp' in capsys.readouterr().err


@pytest.mark.parametrize(('device', 'chosen'), [('cuda', []), ('cuda:1', [1])])
def test_events_are_recorded_on_the_device_that_was_asked_for(
    monkeypatch, device, chosen
) -> None:
    seen: list[int] = []
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    # What set_device itself does: 'cuda' alone has no index, which it refuses.
    index = torch.cuda._utils._get_device_index
    monkeypatch.setattr(torch.cuda, 'set_device', lambda d: seen.append(index(d)))
    monkeypatch.setattr(OPS, 'run_checks', lambda device: {})
    OPS.main(['--device', device, '--checks-only'])
    assert seen == chosen
