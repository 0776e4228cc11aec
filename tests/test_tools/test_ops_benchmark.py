"""Verdicts of the benchmark of attention operations, and its checks."""

from __future__ import annotations

from typing import Any

import pytest

from tests.benchmark_scripts import load_script

OPS = load_script('ops')
from xbench import ops_checks, ops_targets  # noqa: E402  isort: skip


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
