from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from mmengine.model import MMDistributedDataParallel
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from mmseg_xmodal.engine import FreezeNormStatsHook
from tests.test_models.adaptation_toys import batch, wrapper


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


def _training_norms(model: nn.Module) -> dict[str, bool]:
    return {n: m.training for n, m in model.named_modules() if isinstance(m, _NormBase)}


@pytest.mark.parametrize(
    ('prefix', 'network', 'like'),
    [('student.backbone', 'student', True), ('teacher.backbone', 'teacher', False)],
)
def test_norms_of_the_teacher_behave_as_those_of_the_student(prefix, network, like):
    """What ``teacher_norm='batch'`` promises; the other way round it says nothing."""
    model = wrapper([dict(type='mmseg_xmodal.ClassMixSelfTraining')])
    hook = FreezeNormStatsHook(prefix=prefix)
    runner = SimpleNamespace(model=model)
    hook.before_train(runner)
    model.train()
    hook.before_train_iter(runner, 0)
    modes = {n: _training_norms(getattr(model, n)) for n in ('student', 'teacher')}
    assert modes[network]
    for name, training in modes[network].items():
        assert training == (not name.startswith('backbone')), name
    assert (modes['student'] == modes['teacher']) is like
    before = {k: v.clone() for k, v in model.teacher.backbone.named_buffers()}
    model.loss(**model.data_preprocessor(batch(), True))
    for name, value in model.teacher.backbone.named_buffers():
        assert torch.equal(value, before[name]), name


def test_nothing_to_freeze():
    with pytest.raises(ValueError, match="begins with 'backbone'"):
        train(FreezeNormStatsHook(prefix='backbone'), net())
