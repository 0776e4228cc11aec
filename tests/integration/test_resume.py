"""A run that is killed resumes to exactly the weights of one that is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from .helpers import run_tool, write_config

SCHEDULE: dict[str, Any] = dict(
    train_cfg=dict(max_iters=10, val_interval=4),
    default_hooks=dict(checkpoint=dict(interval=4), logger=dict(interval=2)),
    model=dict(backbone=dict(drop_path_rate=0.3)),
)
RANDOM_STATE = dict(type='mmseg_xmodal.RandomStateHook')


def _load(path: Path) -> dict[str, Any]:
    return torch.load(path, map_location='cpu', weights_only=False)


def assert_same_training_state(one: Path, two: Path) -> None:
    """Compare weights, buffers, optimiser and random states bit by bit."""
    a, b = _load(one), _load(two)
    assert a['state_dict'].keys() == b['state_dict'].keys()
    differing = [
        key
        for key, value in a['state_dict'].items()
        if not torch.equal(value, b['state_dict'][key])
    ]
    assert not differing, differing[:5]
    moments_a, moments_b = a['optimizer']['state'], b['optimizer']['state']
    assert moments_a.keys() == moments_b.keys()
    for index, moments in moments_a.items():
        for key, value in moments.items():
            assert torch.equal(value, moments_b[index][key])
    for state_a, state_b in zip(a['random_state'], b['random_state'], strict=True):
        assert torch.equal(state_a['torch'], state_b['torch'])
        assert state_a['python'] == state_b['python']


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, rgbd_root: Path) -> Path:
    folder = tmp_path_factory.mktemp('whole')
    run_tool('train.py', write_config(folder, 'whole', rgbd_root, **SCHEDULE))
    return folder / 'whole' / 'iter_10.pth'


@pytest.mark.parametrize('workers', [0, 2])
def test_killed_run_resumes_exactly(
    tmp_path: Path, rgbd_root: Path, uninterrupted: Path, workers: int
):
    """With two workers too: their number must not matter."""
    loader = dict(train_dataloader=dict(num_workers=workers))
    killer = [RANDOM_STATE, dict(type='KillAtIteration', iteration=7)]
    cut = write_config(
        tmp_path, 'cut', rgbd_root, custom_hooks=killer, **loader, **SCHEDULE
    )
    run_tool('train.py', cut, killed=True)
    assert (tmp_path / 'cut' / 'last_checkpoint').read_text().endswith('iter_4.pth')
    assert not (tmp_path / 'cut' / 'iter_8.pth').exists()
    again = write_config(tmp_path, 'again', rgbd_root, **loader, **SCHEDULE)
    log = run_tool('train.py', again, '--work-dir', tmp_path / 'cut', '--resume')
    assert 'random states restored' in log
    assert 'iter_4.pth' in log
    assert_same_training_state(tmp_path / 'cut' / 'iter_10.pth', uninterrupted)
