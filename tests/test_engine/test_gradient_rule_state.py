from __future__ import annotations

import copy

import pytest
import torch

from mmseg_xmodal.engine import GradientRuleAmpOptimWrapper
from mmseg_xmodal.models.balancing import (
    GradNorm,
    PCGrad,
    UncertaintyWeighting,
)
from mmseg_xmodal.registry import OPTIM_WRAPPERS

from .task_toy import TaskToy, assert_equal, run, total_of, toy_batch, wrap


@pytest.mark.parametrize(
    'rule', [lambda: PCGrad(seed=3), lambda: GradNorm(lr=0.1)], ids=['draws', 'learns']
)
def test_resume_is_exact(rule):
    def fresh():
        model = TaskToy()
        return model, wrap(model, rule())

    model, wrapper = fresh()
    expected = run(model, wrapper, 6)
    model, wrapper = fresh()
    run(model, wrapper, 3)
    states = copy.deepcopy((model.state_dict(), wrapper.state_dict()))
    model, wrapper = fresh()
    model.load_state_dict(states[0])
    wrapper.load_state_dict(states[1])
    assert 'gradient_rule' in states[1], 'the caller keeps its dict'
    assert_equal(run(model, wrapper, 3, 3), expected)
    # Without the state of the rule it is another run.
    model, wrapper = fresh()
    model.load_state_dict(states[0])
    del states[1]['gradient_rule']
    wrapper.load_state_dict(states[1])
    other = run(model, wrapper, 3, 3)
    assert any(not torch.equal(other[key], expected[key]) for key in expected)


def test_state_of_another_rule_is_refused():
    model = TaskToy()
    wrapper = wrap(model, GradNorm())
    run(model, wrapper, 1)
    with pytest.raises(ValueError, match='GradNorm, the config has PCGrad'):
        wrap(model).load_state_dict(wrapper.state_dict())


def test_state_of_other_tasks_is_refused():
    model = TaskToy()
    wrapper = wrap(model, GradNorm())
    run(model, wrapper, 1)
    other = TaskToy(['a', 'd'])
    resumed = wrap(other, GradNorm())
    resumed.rule.bind(['a', 'd'])
    with pytest.raises(ValueError, match=r"\['a', 'd'\], but the model has"):
        resumed.load_state_dict(wrapper.state_dict())


def test_one_task_is_refused():
    with pytest.raises(ValueError, match='with one task'):
        PCGrad(tasks=['a'])
    model = TaskToy(['a'])
    with pytest.raises(ValueError, match='with one task'):
        wrap(model).update_params(total_of(model, toy_batch(tasks=['a'])))


def test_a_loss_without_tasks_is_refused():
    with pytest.raises(ValueError, match='MultiTaskEncoderDecoder'):
        wrap(TaskToy()).update_params(torch.ones((), requires_grad=True))


@pytest.mark.parametrize('space', ['parameters', 'features'])
def test_a_frozen_backbone_is_refused(space):
    model = TaskToy()
    model.backbone.requires_grad_(False)
    loss = total_of(model, toy_batch())
    loss.multitask.shared_parameters = []
    with pytest.raises(ValueError, match=f'shared {space}'):
        wrap(model, gram_space=space).update_params(loss)


def test_wrong_arguments():
    with pytest.raises(ValueError, match='gram_space'):
        wrap(TaskToy(), gram_space='weights')
    with pytest.raises(TypeError, match='loss balancer'):
        wrap(TaskToy(), UncertaintyWeighting(['a', 'b']))


def test_skipped_steps_change_nothing():
    model = TaskToy()
    wrapper = wrap(model)
    run(model, wrapper, 1)
    before = copy.deepcopy(model.state_dict())
    loss = total_of(model, toy_batch())
    skipped = loss * 0
    skipped.multitask = loss.multitask
    skipped.multitask.skip = True
    wrapper.update_params(skipped)
    assert_equal(model.state_dict(), before)
    assert wrapper.tasks == ()
    assert loss.multitask.acknowledged
    run(model, wrapper, 1, 1)
    assert wrapper.tasks == ('a', 'b', 'c')


def test_built_from_a_config():
    model = TaskToy()
    wrapper = OPTIM_WRAPPERS.build(
        dict(
            type='mmseg_xmodal.GradientRuleOptimWrapper',
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
            rule=dict(type='mmseg_xmodal.CAGrad', c=0.4),
            gram_space='features',
        )
    )
    run(model, wrapper, 1)
    assert wrapper.rule.c == 0.4
    assert set(wrapper.grams) == {'features'}


@pytest.fixture
def amp(monkeypatch):
    """The AMP wrapper, which wants CUDA, with a scaler on the CPU."""
    name = 'mmengine.optim.optimizer.amp_optimizer_wrapper.is_cuda_available'
    monkeypatch.setattr(name, lambda: True)

    def build(model, scale):
        wrapper = GradientRuleAmpOptimWrapper(
            rule=PCGrad(), optimizer=torch.optim.SGD(model.parameters(), lr=0.05)
        )
        wrapper.loss_scaler = torch.amp.GradScaler('cpu', init_scale=scale)
        return wrapper

    return build


def test_loss_scale_of_amp_is_taken_out(amp):
    models = [TaskToy() for _ in '12']
    wrappers = [wrap(models[0], momentum=0), amp(models[1], 1024.0)]
    for model, wrapper in zip(models, wrappers, strict=True):
        run(model, wrapper, 3)
    torch.testing.assert_close(wrappers[1].gram, wrappers[0].gram)
    assert (wrappers[1].weights != 1).any()
    torch.testing.assert_close(models[1].state_dict(), models[0].state_dict())


def test_overflow_of_amp_is_a_step_left_out(amp):
    model = TaskToy()
    wrapper = amp(model, 3e38)
    before = copy.deepcopy(model.state_dict())
    run(model, wrapper, 1)
    assert wrapper.weights.tolist() == [1, 1, 1]
    assert_equal(model.state_dict(), before)
    assert wrapper.loss_scaler.get_scale() < 3e38


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='AMP wrapper needs CUDA')
def test_amp_on_a_gpu():
    model = TaskToy().cuda()
    wrapper = GradientRuleAmpOptimWrapper(
        rule=PCGrad(), optimizer=torch.optim.SGD(model.parameters(), lr=0.01)
    )
    # The scale begins far too large for half precision, and halves until it fits.
    for i in range(24):
        batch = toy_batch(i)
        inputs = batch['inputs'].cuda()
        targets = {t: v.cuda() for t, v in batch['targets'].items()}
        with wrapper.optim_context(model):
            loss = total_of(model, dict(inputs=inputs, targets=targets))
        wrapper.update_params(loss)
        assert all(p.isfinite().all() for p in model.parameters())
        if not wrapper.gram.isfinite().all():
            assert wrapper.weights.tolist() == [1, 1, 1]
    assert wrapper.gram.isfinite().all()
    assert (wrapper.weights != 1).any()
