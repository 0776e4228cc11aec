"""The schedules of the recipes, against the formulas of the official codes.

A scheduler of mmengine is through one iteration before its ``end``: where an official
code divides by a number of iterations, it divides by one less. So do the formulas here;
but for that, and for what is noted beside them, they are the official ones.
"""

from __future__ import annotations

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import PARAM_SCHEDULERS

from tests.integration.helpers import ROOT

CONFIGS = ROOT / 'configs'
SCHEDULES = CONFIGS / '_base_' / 'schedules'


def rates(cfg: str | Config, epoch_length: int) -> list[float]:
    """Learning rate of every iteration, at a base rate of 1."""
    if isinstance(cfg, str):
        cfg = Config.fromfile(SCHEDULES / f'{cfg}.py')
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedulers = []
    for scheduler in cfg.param_scheduler:
        part = dict(scheduler)
        cls = PARAM_SCHEDULERS.get(part.pop('type'))
        if part.pop('convert_to_iter_based', False):
            part['epoch_length'] = epoch_length
            schedulers.append(cls.build_iter_from_epoch(optimizer, **part))
        else:
            schedulers.append(cls(optimizer, **part))
    found = []
    for _ in range(cfg.train_cfg.max_epochs * epoch_length):
        found.append(optimizer.param_groups[0]['lr'])
        for scheduler in schedulers:
            scheduler.step()
    return found


def approx(rate: float) -> object:
    """mmengine multiplies its way to a rate, which rounds at each iteration."""
    return pytest.approx(rate, rel=1e-9, abs=1e-15)


def warm_up(t: int, iterations: int, start: float = 1e-6) -> float:
    return min(start + (1 - start) * t / (iterations - 1), 1.0)


@pytest.mark.parametrize(
    ('name', 'epochs'), [('schedule_cmx_500e', 500), ('schedule_cmx_300e', 300)]
)
def test_cmx(name, epochs):
    length = 20
    total, warm = epochs * length, 10 * length
    found = rates(name, length)
    assert len(found) == total
    for t in range(total):
        # In the warm-up the official code does not decay.
        decay = (1 - t / (total - 1)) ** 0.9
        assert found[t] == approx(warm_up(t, warm) * decay), t


@pytest.mark.parametrize('epochs', [200, 250, 400, 500])
def test_cmnext(epochs):
    length = 20
    total, warm = epochs * length, 10 * length
    found = rates(f'schedule_cmnext_{epochs}e', length)
    for t in range(total):
        if t < warm:
            expected = warm_up(t, warm, 0.1)
        else:
            expected = (1 - (t - warm) / (total + length - warm - 1)) ** 0.9
        assert found[t] == approx(expected), t
    # It does not reach 0: the decay is one epoch longer than the training.
    assert found[-1] > 1e-3


def test_daformer():
    cfg = Config.fromfile(SCHEDULES / 'schedule_daformer_40k.py')
    total = cfg.train_cfg.max_iters
    cfg.train_cfg.max_epochs = total
    found = rates(cfg, 1)
    for t in range(0, total, 50):
        assert found[t] == approx(warm_up(t, 1500) * (1 - t / (total - 1))), t


def test_daformer_with_labels_takes_the_same_recipe():
    recipe = Config.fromfile(SCHEDULES / 'schedule_daformer_40k.py')
    leaf = CONFIGS / 'daformer/daformer_mit-b5_1xb2-40k_nyudv2-480x640.py'
    cfg = Config.fromfile(leaf)
    assert cfg.param_scheduler == recipe.param_scheduler
    assert cfg.optim_wrapper == recipe.optim_wrapper


@pytest.mark.parametrize(
    ('name', 'length', 'decay'),
    [
        # A stage is shorter than the decay of 40000 iterations, which it cuts off.
        ('schedule_tokenfusion_300e', 132, 13200),
        ('schedule_tokenfusion_300e_sunrgbd', 660, 40000),
    ],
)
def test_tokenfusion(name, length, decay):
    stage = 100 * length
    end = max(1 - stage / 40000, 1 / 40000)
    found = rates(name, length)
    assert len(found) == 3 * stage
    for t in range(0, 3 * stage, 7):
        k, step = divmod(t, stage)
        left = 1 - (1 - end) * min(step / (decay - 1), 1)
        # In the warm-up the official code does not decay.
        assert found[t] == approx(0.5**k * warm_up(step, 1500) * left), t
