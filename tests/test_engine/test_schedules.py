"""The schedules of the recipes, against the formulas of the official codes."""

from __future__ import annotations

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import PARAM_SCHEDULERS

from tests.integration.helpers import ROOT

SCHEDULES = ROOT / 'configs' / '_base_' / 'schedules'


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


@pytest.mark.parametrize(
    ('name', 'epochs'), [('schedule_cmx_500e', 500), ('schedule_cmx_300e', 300)]
)
def test_cmx(name, epochs):
    length = 20
    total, warm = epochs * length, 10 * length
    found = rates(name, length)
    assert len(found) == total
    # Never at the full rate before the warm-up ends, and never stuck at 0.
    assert found[0] < 1e-5
    assert 0 < found[1] < 2 / warm
    for t in range(1, warm):
        assert found[t] == pytest.approx(t / warm, rel=0.04)
    for t in range(warm, total):
        official = (1 - t / total) ** 0.9
        assert found[t] == pytest.approx(official, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize('epochs', [200, 250, 400, 500])
def test_cmnext(epochs):
    length = 20
    total, warm = epochs * length, 10 * length
    found = rates(f'schedule_cmnext_{epochs}e', length)
    for t in range(total):
        if t < warm:
            official = 0.1 + 0.9 * t / warm
        else:
            official = (1 - (t - warm) / (total + length - warm)) ** 0.9
        assert found[t] == pytest.approx(official, rel=1e-2, abs=1e-3)
    # It does not reach 0: the decay is one epoch longer than the training.
    assert found[-1] > 1e-3


def test_daformer():
    cfg = Config.fromfile(SCHEDULES / 'schedule_daformer_40k.py')
    total = cfg.train_cfg.max_iters
    cfg.train_cfg.max_epochs = total
    found = rates(cfg, 1)
    for t in range(0, total, 50):
        warm = 1 - max(1 - t / 1500, 0) * (1 - 1e-6)
        # mmengine's decay reaches 0 one iteration earlier.
        assert found[t] == pytest.approx(warm * (1 - t / total), rel=2e-3, abs=3e-5), t


def official_three_stages(t: int, stage: int) -> float:
    k, step = divmod(t, stage)
    step = min(step, 39999)
    part = step / 1500 if step < 1500 else 1 - step / 40000
    return 0.5**k * part


@pytest.mark.parametrize(
    ('name', 'length'),
    [
        ('schedule_tokenfusion_300e', 132),
        ('schedule_tokenfusion_300e_sunrgbd', 660),
    ],
)
def test_tokenfusion(name, length):
    stage = 100 * length
    found = rates(name, length)
    assert len(found) == 3 * stage
    for t in range(0, 3 * stage, 7):
        expected = official_three_stages(t, stage)
        tolerance = dict(rel=0.04, abs=2e-3)
        assert found[t] == pytest.approx(expected, **tolerance), t
