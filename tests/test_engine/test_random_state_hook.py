# The legacy global state of numpy is the very subject here.
# ruff: noqa: NPY002
from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook

from mmseg_xmodal.engine.hooks.random_state import (
    RandomStateHook,
    capture_random_state,
    restore_random_state,
)

from .toy import toy_runner, train


class _StopAt(Hook):
    """End the loop: at once, or at the end of the epoch in an epoch loop."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def after_train_iter(self, runner: Any, **_: Any) -> None:
        if runner.iter + 1 == self.iteration:
            runner.train_loop.stop_training = True


def _weights(runner: Any) -> list[torch.Tensor]:
    return [p.detach().clone() for p in runner.model.parameters()]


def _whole_and_resumed(tmp_path: Path, **kwargs: Any) -> tuple[Any, Any]:
    """Train once in one go, once with an interruption after the checkpoint."""
    at = 13 if kwargs.get('by_epoch') else 6
    hooks = kwargs.pop('hooks', [dict(type='mmseg_xmodal.RandomStateHook')])
    whole = toy_runner(tmp_path / 'whole', hooks=hooks, **kwargs)
    train(whole)
    torch.rand(5), np.random.rand(5), random.random()
    interrupted = toy_runner(tmp_path / 'cut', hooks=[*hooks, _StopAt(at)], **kwargs)
    train(interrupted)
    assert interrupted.iter < whole.iter
    torch.manual_seed(99)
    resumed = toy_runner(tmp_path / 'cut', hooks=hooks, resume=True, **kwargs)
    train(resumed)
    assert resumed.iter == whole.iter
    return whole, resumed


def _equal(a: Any, b: Any) -> bool:
    return all(torch.equal(x, y) for x, y in zip(_weights(a), _weights(b), strict=True))


@pytest.mark.parametrize('by_epoch', [False, True], ids=['iters', 'epochs'])
@pytest.mark.parametrize('workers', [0, 2])
def test_resumed_equals_uninterrupted(tmp_path: Path, workers: int, by_epoch: bool):
    whole, resumed = _whole_and_resumed(tmp_path, workers=workers, by_epoch=by_epoch)
    assert len(resumed.model.seen) < len(whole.model.seen)
    for got, want in zip(
        reversed(resumed.model.seen), reversed(whole.model.seen), strict=False
    ):
        assert torch.equal(got, want)
    assert _equal(whole, resumed)


def test_resumed_equals_uninterrupted_with_persistent_workers(tmp_path: Path):
    whole, resumed = _whole_and_resumed(
        tmp_path, workers=2, by_epoch=True, persistent=True
    )
    assert _equal(whole, resumed)


def test_without_the_hook_the_weights_differ(tmp_path: Path):
    whole, resumed = _whole_and_resumed(tmp_path, hooks=[])
    assert not _equal(whole, resumed)


def test_resuming_from_the_best_checkpoint_is_exact(tmp_path: Path):
    """It is written inside the validation, after validation drew random numbers."""
    best = dict(save_best='score', rule='less')
    whole, resumed = _whole_and_resumed(tmp_path, checkpoint=best)
    assert _equal(whole, resumed)


def test_validation_leaves_the_random_state_alone(tmp_path: Path):
    with_val = toy_runner(tmp_path / 'a')
    train(with_val)
    without = toy_runner(tmp_path / 'b')
    without._val_loop.update(type='ValLoop')
    without._train_loop['val_interval'] = 10**6
    without._train_loop['val_begin'] = 10**6
    train(without)
    assert _equal(with_val, without)


def test_load_from_does_not_restore(tmp_path: Path):
    train(toy_runner(tmp_path / 'a'))
    state = torch.load(tmp_path / 'a' / 'iter_4.pth', weights_only=False)
    assert len(state['random_state']) == 1
    loaded = toy_runner(
        tmp_path / 'b', length=1, load_from=str(tmp_path / 'a' / 'iter_4.pth')
    )
    fresh = toy_runner(tmp_path / 'c', length=1)
    draws = []
    for runner in (fresh, loaded):
        runner.set_randomness(seed=3)
        train(runner)
        draws.append(torch.rand(3))
    assert torch.equal(*draws)


def test_state_is_safe_to_load_and_restores_every_generator(tmp_path: Path):
    random.gauss(0, 1), np.random.standard_normal()  # both now hold a cached value
    torch.save(capture_random_state(), tmp_path / 'state.pth')

    def draw() -> list[float]:
        return [
            random.gauss(0, 1),
            random.random(),
            np.random.standard_normal(),
            np.random.rand(),
            torch.rand(()).item(),
        ]

    first = draw()
    assert draw() != first
    restore_random_state(torch.load(tmp_path / 'state.pth', weights_only=True))
    assert draw() == first


def test_checkpoint_of_another_number_of_processes_is_refused_loudly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    runner = toy_runner(tmp_path)
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner.train_loop._iter = 4
    warnings: list[str] = []
    monkeypatch.setattr(runner.logger, 'warning', warnings.append)
    hook = RandomStateHook()
    hook.after_load_checkpoint(runner, dict(random_state=[capture_random_state()] * 2))
    hook.before_train(runner)
    assert '2 processes, this run has 1' in warnings[0]
    hook.after_load_checkpoint(runner, dict())
    hook.before_train(runner)
    assert 'holds no random states' in warnings[1]
    runner.train_dataloader.sampler.seed = 5
    hook.after_load_checkpoint(runner, dict(random_state=[capture_random_state()]))
    hook.before_train(runner)
    assert 'runs with seed 5' in warnings[2]
    assert 'randomness=dict(seed=3)' in warnings[2]


def _warnings(work_dir: Path) -> str:
    return '\n'.join(p.read_text() for p in sorted(work_dir.rglob('*.log')))


def test_a_seed_for_each_rank(tmp_path: Path):
    """The sampler then draws its own seed, the same one in a resumed run."""
    own = dict(seed=3, diff_rank_seed=True)
    whole, resumed = _whole_and_resumed(tmp_path, randomness=own)
    seeds = [r.train_dataloader.sampler.seed for r in (whole, resumed)]
    assert seeds[0] == seeds[1] != 3
    assert _equal(whole, resumed)
    assert 'another order' not in _warnings(tmp_path / 'cut')


def test_samples_in_another_order_are_reported(tmp_path: Path):
    """Without a seed in the config, also where each rank has one of its own."""
    for diff in (False, True):
        own = dict(seed=None, diff_rank_seed=diff)
        part = tmp_path / str(diff)
        _, resumed = _whole_and_resumed(part, randomness=own)
        said = _warnings(part / 'cut')
        assert 'samples will come in another order' in said
        assert f'Set randomness=dict(seed={resumed.seed}' in said


def test_a_seed_that_the_sampler_was_given_is_no_other_order(tmp_path: Path):
    sampler = dict(type='mmseg_xmodal.SeededInfiniteSampler', seed=11)
    whole, resumed = _whole_and_resumed(tmp_path, sampler=sampler)
    assert _equal(whole, resumed)
    assert 'another order' not in _warnings(tmp_path / 'cut')


def test_a_checkpoint_without_the_seed_of_the_sampler(tmp_path: Path):
    """Of an earlier version: with a seed for each rank nothing can be said."""
    train(toy_runner(tmp_path, randomness=dict(seed=3, diff_rank_seed=True)))
    path = tmp_path / 'iter_4.pth'
    state = torch.load(path, weights_only=False)
    state.pop('sampler_seed', None)
    torch.save(state, path)
    own = dict(seed=3, diff_rank_seed=True)
    train(toy_runner(tmp_path, randomness=own, load_from=str(path), resume=True))
    assert 'another order' not in _warnings(tmp_path)


def test_generator_of_the_user_is_left_alone(tmp_path: Path):
    runner = toy_runner(tmp_path)
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    hook = RandomStateHook()
    hook.before_train_epoch(runner)
    first = runner.train_dataloader.generator
    hook.before_train_epoch(runner)
    assert runner.train_dataloader.generator is not first
    runner.train_dataloader.generator = mine = torch.Generator()
    hook.before_train_epoch(runner)
    assert runner.train_dataloader.generator is mine


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
def test_cuda_state_is_restored_from_a_checkpoint_on_any_device(tmp_path: Path):
    torch.rand(3, device='cuda')
    torch.save(capture_random_state(), tmp_path / 'state.pth')
    first = torch.rand(3, device='cuda')
    for device in ('cpu', 'cuda'):  # mmengine maps the checkpoint to its device
        restore_random_state(torch.load(tmp_path / 'state.pth', map_location=device))
        assert torch.equal(torch.rand(3, device='cuda'), first)
