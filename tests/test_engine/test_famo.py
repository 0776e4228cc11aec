from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from mmengine.model import MMDistributedDataParallel
from torch import nn

from mmseg_xmodal.engine import FAMOHook
from mmseg_xmodal.models.balancing import FAMO, GradNorm

from .task_toy import TASKS, TaskToy, total_of, toy_batch, toy_task_runner

RULE = dict(type='mmseg_xmodal.GradientRuleOptimWrapper')
HOOKS = [dict(type='mmseg_xmodal.FAMOHook')]


def famo_toy(norm: bool = False, **kwargs) -> TaskToy:
    return TaskToy(balancer=FAMO(TASKS, **kwargs), norm=norm)


def after_step(model: TaskToy, batch: dict, hook: FAMOHook, runner) -> None:
    """One iteration in the order of mmengine."""
    data = model.data_preprocessor(batch, True)
    runner.optim_wrapper.update_params(total_of(model, data))
    hook.after_train_iter(runner, 0, batch)


def started(model: nn.Module, counts: int = 1):
    from mmengine.optim import OptimWrapper

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    wrapper = OptimWrapper(optimizer, accumulative_counts=counts)
    runner = SimpleNamespace(model=model, optim_wrapper=wrapper)
    hook = FAMOHook()
    hook.before_train(runner)
    return hook, runner


def test_losses_of_the_same_batch_after_the_step():
    model, plain = famo_toy(), famo_toy()
    hook, runner = started(model)
    plain.balancer.hooked = True
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    for i in range(4):
        batch = toy_batch(i)
        after_step(model, batch, hook, runner)
        optimizer.zero_grad()
        total_of(plain, batch).backward()
        optimizer.step()
        with torch.no_grad(), plain.balancer.measuring():
            plain.parse_losses(plain(**batch, mode='loss'))
        assert plain.losses_seen[-1] != plain.losses_seen[-2]
        assert model.losses_seen == plain.losses_seen
        for key, value in plain.state_dict().items():
            assert torch.equal(model.state_dict()[key], value), key
    assert (model.balancer.logits != 0).all()


def test_running_statistics_count_a_batch_once():
    model, plain = famo_toy(norm=True), TaskToy(norm=True)
    hook, runner = started(model)
    after_step(model, toy_batch(), hook, runner)
    total_of(plain, toy_batch())
    for name, buffer in plain.backbone.named_buffers():
        assert torch.equal(model.backbone.get_buffer(name), buffer), name
    assert model.backbone[1].num_batches_tracked == 1


def test_only_a_step_is_measured():
    model = famo_toy()
    hook, runner = started(model, counts=3)
    for i in range(6):
        before = model.balancer.logits.clone()
        after_step(model, toy_batch(i), hook, runner)
        assert torch.equal(model.balancer.logits, before) == (i not in (2, 5))
    assert len(model.losses_seen) == 8


@pytest.mark.usefixtures('one_process')
def test_wrapped_model_and_the_end():
    model = famo_toy()
    hook = FAMOHook()
    runner = started(model)[1]
    runner.model = MMDistributedDataParallel(model)
    hook.before_train(runner)
    after_step(model, toy_batch(), hook, runner)
    assert len(model.losses_seen) == 2
    assert model.balancer.hooked
    hook.after_train(runner)
    assert not model.balancer.hooked


@pytest.mark.parametrize('balancer', [None, FAMO(TASKS, second_forward=False)])
def test_nothing_to_measure_for(balancer):
    with pytest.raises(ValueError, match='FAMOHook'):
        started(TaskToy(balancer=balancer))


def test_several_optimisers():
    runner = SimpleNamespace(model=famo_toy(), optim_wrapper=object())
    with pytest.raises(ValueError, match='one optimiser'):
        FAMOHook().before_train(runner)


def test_next_batch_instead():
    """Without the second pass the losses after the step are those of the next batch."""
    model = famo_toy(second_forward=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    total_of(model, toy_batch(0)).backward()
    optimizer.step()
    twin = copy.deepcopy(model.balancer)
    total_of(model, toy_batch(1))
    twin.second_forward = True
    with twin.measuring():
        twin({t: torch.tensor(v) for t, v in model.losses_seen[-1].items()})
    assert (twin.logits != 0).all()
    torch.testing.assert_close(model.balancer.logits, twin.logits)


@pytest.mark.parametrize('second_forward', [True, False])
def test_resume_with_balancer_and_rule_is_exact(tmp_path, second_forward):
    def runner(name, **kwargs):
        model = famo_toy(norm=True, second_forward=second_forward, lr=0.2)
        rule = dict(RULE, rule=GradNorm(lr=0.1))
        hooks = HOOKS if second_forward else []
        return toy_task_runner(tmp_path / name, model, rule, hooks, **kwargs)

    whole = runner('whole')
    whole.train()
    resumed = runner('cut', load_from=str(tmp_path / 'whole/iter_3.pth'), resume=True)
    resumed.train()
    expected, state = whole.model.state_dict(), resumed.model.state_dict()
    assert 'balancer.logits' in expected
    assert expected.keys() == state.keys()
    for key, value in expected.items():
        assert torch.equal(state[key], value), key
    rules = [r.optim_wrapper.rule.state_dict() for r in (whole, resumed)]
    assert rules[0].keys() == rules[1].keys()
    assert rules[0]['v'].ne(0).any()
    for key, value in rules[0].items():
        assert torch.equal(rules[1][key], value), key
