"""Two processes on the CPU (gloo)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from tests import python_process

from .helpers import ROOT, TIMEOUT, environment, write_config
from .test_resume import RANDOM_STATE, SCHEDULE, assert_same_training_state

# Nothing random, equal numbers of labelled pixels, no batch statistics: the gradient
# of a batch of two is then the mean of the gradients of two batches of one.
EXACT: dict[str, Any] = dict(
    train_cfg=dict(max_iters=3, val_interval=100),
    default_hooks=dict(checkpoint=dict(interval=100), logger=dict(interval=1)),
    model=dict(backbone=dict(drop_path_rate=0.0), decode_head=dict(dropout_ratio=0.0)),
    optim_wrapper=dict(
        optimizer=dict(_delete_=True, type='SGD', lr=0.05, momentum=0.9)
    ),
    custom_hooks=[dict(type='FreezeBatchNorm')],
)
# Ranks with seeds of their own, so that every rank needs its own state back.
RANDOM: dict[str, Any] = dict(randomness=dict(seed=0, diff_rank_seed=True), **SCHEDULE)


def _train(tmp_path: Path, *configs: Path, killed: bool = False) -> None:
    """Train the configs one after the other in one pair of processes."""
    store = tmp_path / f'store_{configs[0].stem}'
    launcher = ('-m', 'tests.integration.gloo_launcher')
    outputs = [tmp_path / f'{configs[0].stem}_{rank}.txt' for rank in (0, 1)]
    processes = [
        python_process.start(
            *(*launcher, rank, 2, store, *configs),
            env=environment(),
            cwd=ROOT,
            stdout=outputs[rank],
        )
        for rank in (0, 1)
    ]
    try:
        for process in processes:
            process.join(TIMEOUT)
        codes = [process.exitcode for process in processes]
    finally:
        for process in processes:
            process.kill()
    texts = '\n'.join(output.read_text()[-4000:] for output in outputs)
    assert codes == ([-9, -9] if killed else [0, 0]), texts


def _reports(work_dir: Path) -> list[dict]:
    return [json.loads((work_dir / f'rank{i}.json').read_text()) for i in (0, 1)]


@pytest.fixture(scope='module')
def two_runs(tmp_path_factory: pytest.TempPathFactory, rgbd_root: Path) -> Path:
    """A folder with ``exact`` and ``whole``, both trained by two processes."""
    folder = tmp_path_factory.mktemp('ddp')
    exact = _exact_config(folder, 'exact', rgbd_root, batch_size=1)
    whole = write_config(folder, 'whole', rgbd_root, **RANDOM)
    _train(folder, exact, whole)
    return folder


def _exact_config(folder: Path, name: str, root: Path, batch_size: int) -> Path:
    modalities = dict(
        rgb=dict(channels=3, mean=[120.0], std=[60.0], order='rgb'),
        depth=dict(channels=1, mean=[120.0], std=[60.0], dtype='uint8', invalid=0),
    )
    pipeline = [
        dict(type='mmseg_xmodal.LoadModalities', modalities=modalities),
        dict(type='LoadAnnotations'),
        dict(type='mmseg_xmodal.PackXModalInputs'),
    ]
    loader = dict(batch_size=batch_size, dataset=dict(pipeline=pipeline))
    return write_config(folder, name, root, train_dataloader=loader, **EXACT)


@pytest.mark.parametrize('name', ['exact', 'whole'])
def test_ranks_agree(two_runs: Path, name: str):
    reports = _reports(two_runs / name)
    for report in reports:
        assert report['wrapper'] == 'MMDistributedDataParallel'
        assert report['equal']
        assert report['finite']
        assert all(0 < loss < 10 for loss in report['losses'])
    assert reports[0]['losses'] != reports[1]['losses']  # each has its own samples


def test_two_processes_equal_one(two_runs: Path, rgbd_root: Path, tmp_path: Path):
    config = _exact_config(tmp_path, 'one', rgbd_root, batch_size=2)
    Runner.from_cfg(Config.fromfile(config)).train()
    one, two = (
        torch.load(path, weights_only=False)['state_dict']
        for path in (tmp_path / 'one' / 'iter_3.pth', two_runs / 'exact' / 'iter_3.pth')
    )
    # Equal up to the order of float32 sums.
    torch.testing.assert_close(one, two, rtol=1e-4, atol=2e-6)


def test_killed_pair_resumes_exactly(two_runs: Path, rgbd_root: Path, tmp_path: Path):
    killer = [RANDOM_STATE, dict(type='KillAtIteration', iteration=7)]
    cut = write_config(tmp_path, 'cut', rgbd_root, custom_hooks=killer, **RANDOM)
    _train(tmp_path, cut, killed=True)
    again = write_config(
        tmp_path,
        'again',
        rgbd_root,
        resume=True,
        work_dir=str(tmp_path / 'cut'),
        **RANDOM,
    )
    _train(tmp_path, again)
    resumed = tmp_path / 'cut' / 'iter_10.pth'
    assert_same_training_state(resumed, two_runs / 'whole' / 'iter_10.pth')
    states = torch.load(resumed, weights_only=False)['random_state']
    assert len(states) == 2
    assert not torch.equal(states[0]['torch'], states[1]['torch'])
