"""The checks of tools/benchmark/ops.py: all of them on CUDA, the plain ones here."""

from __future__ import annotations

import json

import pytest
import torch

from mmseg_xmodal.ops import (
    criss_cross_attention,
    modality_attention,
    multi_scale_deformable_attention,
)
from tests.benchmark_scripts import load_script

from .inputs import LEVELS, msda_inputs

from xbench import ops_checks  # isort: skip  # path of the conftest

CUDA = torch.cuda.is_available()


@pytest.mark.gpu
@pytest.mark.skipif(not CUDA, reason='needs a CUDA device')
def test_every_check_on_cuda():
    failed = load_script('ops').run_checks('cuda')
    assert len(failed) > 80
    assert not {name: error for name, error in failed.items() if error}


def steps(dtype):
    """Operations in Triton as functions of tensors, and the tensors."""
    torch.manual_seed(0)
    maps = [torch.randn(1, c, 9, 12) for c in (16, 16, 40)]
    tokens = [torch.randn(2, 70, 2, 16) for _ in range(5)]

    def attend(value, locations, weights):
        return multi_scale_deformable_attention(
            value, LEVELS, locations, weights, 'triton'
        )

    def modality(q, *rest):
        return modality_attention(q, rest[:2], rest[2:], backend='triton')

    return {
        'msda': (attend, list(msda_inputs(dtype=dtype, channels=16))),
        'criss_cross': (
            lambda q, k, v: criss_cross_attention(q, k, v, backend='triton'),
            [x.to(dtype) for x in maps],
        ),
        'modality': (modality, [x.to(dtype) for x in tokens]),
    }


@pytest.mark.gpu
@pytest.mark.skipif(not CUDA, reason='needs a CUDA device')
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('op', ['msda', 'criss_cross', 'modality'])
def test_compiles_and_captures_on_cuda(op, dtype):
    """Under inductor without a graph break, and in a CUDA graph without a wait."""
    form, tensors = steps(dtype)[op]
    tensors = [x.cuda() for x in tensors]

    def step(first, *rest):
        return form(first * 2, *rest)

    want = step(*tensors)
    compiled = torch.compile(step, fullgraph=True)
    torch.testing.assert_close(compiled(*tensors), want)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = step(*tensors)
    out.fill_(float('nan'))
    graph.replay()
    torch.testing.assert_close(out, want)


def test_the_checks_pass_on_the_cpu():
    failed = load_script('ops').run_checks('cpu')
    assert len(failed) > 20
    assert not {name: error for name, error in failed.items() if error}


def test_a_wrong_operation_is_found(monkeypatch):
    """A check that cannot fail would prove nothing."""
    from mmseg_xmodal.ops.msda import api

    right = api.reference.forward

    def wrong(value, shapes, locations, weights):
        return right(value, shapes, locations, weights) * 1.0001

    monkeypatch.setattr(api.reference, 'forward', wrong)
    checks = dict(ops_checks.msda('cpu', 'torch'))
    with pytest.raises(AssertionError, match='fp32 output: got 1.00e-04'):
        checks['fp32, seed 0']()


def test_the_benchmark_writes_a_table(tmp_path, capsys):
    out = tmp_path / 'cpu.json'
    load_script('ops').main(
        ['--device', 'cpu', '--quick', '--repeats', '1', '--out', str(out)]
    )
    result = json.loads(out.read_text())
    assert result['kind'] == 'table'
    assert result['targets'] == []
    assert {row[3] for row in result['rows']} == {
        'ours',
        'grid_sample',
        'einsum',
        'SDPA',
    }
    assert all(len(row) == len(result['header']) for row in result['rows'])
    for entry in result['cases']:
        assert entry['bytes'] > 0
        for form in entry['forms'].values():
            assert form['seconds'] > 0
            assert form['mib'] > 0
    assert 'checks passed on cpu' in capsys.readouterr().out


def test_the_benchmark_stops_at_a_failed_check(monkeypatch, capsys):
    script = load_script('ops')

    def broken():
        raise AssertionError('off by one')

    monkeypatch.setattr(ops_checks, 'all_checks', lambda _: [('bad', broken)])
    with pytest.raises(SystemExit) as error:
        script.main(['--device', 'cpu', '--quick'])
    assert error.value.code == 1
    assert 'off by one' in capsys.readouterr().err
