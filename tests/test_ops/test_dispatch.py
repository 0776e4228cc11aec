from __future__ import annotations

import logging

import pytest
import torch

from mmseg_xmodal.ops import dispatch, multi_scale_deformable_attention

from .inputs import LEVELS, msda_inputs

OFFERED = ('torch', 'triton', 'mmcv')


class FakeCuda:
    """What the choice looks at, of a tensor that this machine cannot have."""

    is_cuda = True
    device = torch.device('cuda:0')

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self.dtype = dtype


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    monkeypatch.setattr(dispatch, '_logged', set())
    monkeypatch.delenv(dispatch.ENVIRONMENT, raising=False)
    monkeypatch.delenv('TRITON_INTERPRET', raising=False)


def installed(monkeypatch, triton: bool, mmcv: bool) -> None:
    monkeypatch.setattr(
        dispatch, 'triton_problem', lambda: None if triton else 'no Triton'
    )
    monkeypatch.setattr(dispatch, 'mmcv_problem', lambda: None if mmcv else 'no mmcv')


def test_auto_logs_its_choice_once(caplog):
    value, locations, weights = msda_inputs()
    with caplog.at_level(logging.INFO, logger='mmseg_xmodal.ops'):
        for _ in range(3):
            multi_scale_deformable_attention(value, LEVELS, locations, weights)
    (line,) = [r.getMessage() for r in caplog.records]
    assert 'multi_scale_deformable_attention: torch back end' in line
    assert 'cpu' in line


@pytest.mark.parametrize(
    ('triton', 'mmcv', 'dtype', 'choice', 'reason'),
    [
        (True, True, torch.bfloat16, 'triton', 'Triton is installed'),
        (True, False, torch.float64, 'torch', 'no torch.float64; no mmcv'),
        (False, True, torch.float32, 'mmcv', 'no Triton; mmcv has compiled'),
        (False, False, torch.float32, 'torch', 'no Triton; no mmcv'),
    ],
)
def test_auto_on_a_gpu(monkeypatch, caplog, triton, mmcv, dtype, choice, reason):
    installed(monkeypatch, triton, mmcv)
    with caplog.at_level(logging.INFO, logger='mmseg_xmodal.ops'):
        got = dispatch.choose('op', 'auto', FakeCuda(dtype), OFFERED)
    assert got == choice
    assert reason in caplog.text


def test_auto_leaves_mmcv_out_where_runs_must_repeat(monkeypatch):
    installed(monkeypatch, triton=False, mmcv=True)
    torch.use_deterministic_algorithms(True)
    try:
        assert dispatch.choose('op', 'auto', FakeCuda(), OFFERED) == 'torch'
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_gpu_without_triton(monkeypatch):
    installed(monkeypatch, triton=False, mmcv=False)
    with pytest.raises(
        RuntimeError, match="backend got 'triton', expected .*no Triton"
    ):
        dispatch.choose('op', 'triton', FakeCuda(), OFFERED)


@pytest.mark.parametrize('backend', ['triton', 'mmcv'])
def test_a_cpu_tensor_to_a_gpu_back_end(backend):
    value, locations, weights = msda_inputs(dtype=torch.float32)
    message = f"value got a tensor on 'cpu', expected one on 'cuda' .*'{backend}'"
    with pytest.raises(ValueError, match=message):
        multi_scale_deformable_attention(value, LEVELS, locations, weights, backend)


def test_float64_to_triton(monkeypatch):
    installed(monkeypatch, triton=True, mmcv=False)
    with pytest.raises(TypeError, match=r'value got torch.float64, expected one of'):
        dispatch.choose('op', 'triton', FakeCuda(torch.float64), OFFERED)


def test_sizes_without_a_kernel(monkeypatch, caplog):
    """Left to PyTorch in the open by 'auto', refused where Triton was asked for."""
    installed(monkeypatch, triton=True, mmcv=False)
    reason = 'the Triton kernel takes up to 8 modalities, not 9'
    with caplog.at_level(logging.INFO, logger='mmseg_xmodal.ops'):
        assert dispatch.choose('op', 'auto', FakeCuda(), unfit=reason) == 'torch'
    assert f'op: torch back end ({reason})' in caplog.text
    assert dispatch.choose('op', 'torch', FakeCuda(), unfit=reason) == 'torch'
    with pytest.raises(ValueError, match=f"got 'triton', expected .*{reason}"):
        dispatch.choose('op', 'triton', FakeCuda(), unfit=reason)


def test_unknown_back_end():
    with pytest.raises(ValueError, match="backend got 'cuda', expected one of"):
        dispatch.choose('op', 'cuda', torch.zeros(1), OFFERED)


def test_a_back_end_that_the_operation_lacks():
    with pytest.raises(ValueError, match="got 'mmcv', expected one of"):
        dispatch.choose('op', 'mmcv', torch.zeros(1), ('torch',))


def test_auto_waits_for_the_checks_on_a_gpu(monkeypatch, caplog):
    installed(monkeypatch, triton=True, mmcv=False)
    with caplog.at_level('INFO', 'mmseg_xmodal.ops'):
        assert dispatch.choose('op', 'auto', FakeCuda(), proven=False) == 'torch'
    assert 'checks of its Triton kernel' in caplog.text
    assert dispatch.choose('op', 'triton', FakeCuda(), proven=False) == 'triton'


def test_the_environment_overrides_auto_only(monkeypatch):
    installed(monkeypatch, triton=True, mmcv=True)
    monkeypatch.setenv(dispatch.ENVIRONMENT, 'torch')
    assert dispatch.choose('op', 'auto', FakeCuda(), OFFERED) == 'torch'
    assert dispatch.choose('op', 'mmcv', FakeCuda(), OFFERED) == 'mmcv'
    monkeypatch.setenv(dispatch.ENVIRONMENT, 'fast')
    with pytest.raises(ValueError, match=f"{dispatch.ENVIRONMENT} got 'fast'"):
        dispatch.choose('op', 'auto', FakeCuda(), OFFERED)


@pytest.mark.parametrize('choice', ['triton', 'mmcv'])
def test_the_environment_is_named_where_it_chose(monkeypatch, choice):
    """The caller passed no ``backend``: to unset the variable is what helps."""
    monkeypatch.setenv(dispatch.ENVIRONMENT, choice)
    help_ = f'{dispatch.ENVIRONMENT}=.{choice}.*Unset {dispatch.ENVIRONMENT}'
    with pytest.raises(ValueError, match=f'on .cpu., expected .*{help_}') as error:
        dispatch.choose('op', 'auto', torch.zeros(1), OFFERED)
    assert f'backend={choice!r}' not in str(error.value)
    help_ = f'{dispatch.ENVIRONMENT} got .{choice}.*Unset {dispatch.ENVIRONMENT}'
    installed(monkeypatch, triton=False, mmcv=False)
    with pytest.raises(RuntimeError, match=help_):
        dispatch.choose('op', 'auto', FakeCuda(), OFFERED)


def test_the_environment_is_named_for_a_dtype_and_for_sizes(monkeypatch):
    installed(monkeypatch, triton=True, mmcv=True)
    monkeypatch.setenv(dispatch.ENVIRONMENT, 'triton')
    help_ = f'Unset {dispatch.ENVIRONMENT}'
    with pytest.raises(TypeError, match=f'float64, expected .*{help_}') as error:
        dispatch.choose('op', 'auto', FakeCuda(torch.float64), OFFERED)
    assert "backend='triton'" not in str(error.value)
    with pytest.raises(ValueError, match=f'too wide. {help_}'):
        dispatch.choose('op', 'auto', FakeCuda(), OFFERED, unfit='too wide')


def test_the_environment_names_what_an_operation_lacks(monkeypatch, caplog):
    """The variable speaks to all operations: one without mmcv chooses by itself."""
    installed(monkeypatch, triton=True, mmcv=True)
    monkeypatch.setenv(dispatch.ENVIRONMENT, 'mmcv')
    with caplog.at_level(logging.INFO, logger='mmseg_xmodal.ops'):
        assert dispatch.choose('op', 'auto', FakeCuda()) == 'triton'
    assert f"it has no 'mmcv', which {dispatch.ENVIRONMENT} asks for" in caplog.text


def test_a_failing_kernel_is_not_replaced(monkeypatch):
    """What the chosen back end raises reaches the caller; nothing else is tried."""
    from mmseg_xmodal.ops.msda import api

    class Broken:
        @staticmethod
        def forward(*_):
            raise RuntimeError('launch failed')

    monkeypatch.setattr(dispatch, 'choose', lambda *_: 'triton')
    monkeypatch.setattr(api, '_triton', Broken)
    value, locations, weights = msda_inputs()
    with pytest.raises(RuntimeError, match='launch failed'):
        multi_scale_deformable_attention(value, LEVELS, locations, weights)
