from __future__ import annotations

import importlib.metadata
import importlib.util
import pickle

import pytest
import torch
from mmengine.logging import HistoryBuffer

from mmseg_xmodal import compat
from tests import python_process


@pytest.fixture(autouse=True)
def _allowed():
    # The forks take their own list of safe globals away again after every load, ours
    # that are also theirs included; whoever loads by himself asks anew.
    compat.allow_mmengine_checkpoints()


def _roundtrip(obj, tmp_path):
    path = tmp_path / 'checkpoint.pth'
    torch.save(obj, path)
    return torch.load(path, weights_only=True)


def test_history_buffer_loads_with_weights_only(tmp_path):
    buffer = HistoryBuffer([1.0, 2.0, 4.0], [1, 1, 2])
    loaded = _roundtrip({'message_hub': {'loss': buffer}}, tmp_path)
    again = loaded['message_hub']['loss']
    assert again.mean() == buffer.mean()
    assert again.statistics('max') == 4.0


class _Getattr:
    def __init__(self, owner, name):
        self.args = (owner, name)

    def __reduce__(self):
        return getattr, self.args


def test_getattr_on_anything_else_is_refused(tmp_path):
    path = tmp_path / 'evil.pth'
    torch.save({'x': _Getattr(HistoryBuffer, '__init__')}, path)
    with pytest.raises((ValueError, pickle.UnpicklingError), match='HistoryBuffer'):
        torch.load(path, weights_only=True)


def test_getattr_on_a_tensor_is_refused(tmp_path):
    path = tmp_path / 'evil.pth'
    torch.save({'x': _Getattr(torch.zeros(1), 'numpy')}, path)
    with pytest.raises((ValueError, pickle.UnpicklingError), match='getattr'):
        torch.load(path, weights_only=True)


def test_builtin_getattr_is_not_a_safe_global():
    allowed = torch.serialization.get_safe_globals()
    assert getattr not in allowed


def test_import_without_a_stack_names_both_commands(monkeypatch):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(ImportError) as error:
        compat.require_stack()
    text = str(error.value)
    assert 'mmengine, mmcv, mmseg cannot be imported' in text
    assert 'onedl-mmsegmentation>=1.4.2' in text
    assert 'pip install --no-build-isolation mmcv==2.1.0' in text


def test_versions_outside_the_tested_set_warn_only(monkeypatch):
    real = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata,
        'version',
        lambda name: '9.0.0' if name == 'torch' else real(name),
    )
    with pytest.warns(UserWarning, match=r'torch 9\.0\.0 \(tested: >=2\.4,<2\.14\)'):
        assert len(compat.warn_untested_versions()) == 1


def test_the_installed_stack_is_inside_the_tested_set():
    assert compat.warn_untested_versions() == []


def test_a_fresh_process_loads_a_checkpoint(tmp_path):
    """mmengine fills the table of statistics with the first buffer that is made."""
    path = tmp_path / 'checkpoint.pth'
    torch.save({'loss': HistoryBuffer([1.0, 3.0], [1, 1])}, path)
    code = (
        'import torch, mmseg_xmodal.registry\n'
        f'print(torch.load({str(path)!r}, weights_only=True)["loss"].mean())'
    )
    done = python_process.run('-c', code)
    assert done.stdout.strip().endswith('2.0'), done.stderr[-2000:]
