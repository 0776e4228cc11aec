from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from mmengine.model import MMDistributedDataParallel
from torch import nn

from mmseg_xmodal.engine import FreezeNormStatsHook


def train(hook: FreezeNormStatsHook, model: nn.Module) -> None:
    """Two iterations in the order of mmengine's loops."""
    runner = SimpleNamespace(model=model)
    hook.before_train(runner)
    for index in range(2):
        model.train()
        hook.before_train_iter(runner, index)
        model(torch.randn(8, 4) + 3).square().sum().backward()


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.BatchNorm1d(4))


def test_statistics_stand_still_and_the_affine_part_learns():
    model = net()
    train(FreezeNormStatsHook(), model)
    for norm in model[1:]:
        assert not norm.running_mean.any()
        assert norm.num_batches_tracked == 0
        assert norm.weight.grad.any()
        assert norm.bias.grad.any()
    assert model[0].training


@pytest.mark.usefixtures('one_process')
def test_prefix_and_wrapped_model():
    model = net()
    wrapper = MMDistributedDataParallel(model)
    train(FreezeNormStatsHook(prefix='2'), wrapper)
    assert model[1].running_mean.any()
    assert not model[2].running_mean.any()


def test_nothing_to_freeze():
    with pytest.raises(ValueError, match="begins with 'backbone'"):
        train(FreezeNormStatsHook(prefix='backbone'), net())
