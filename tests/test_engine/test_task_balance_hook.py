from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from mmseg_xmodal.engine import TaskBalanceHook
from mmseg_xmodal.models.balancing import MGDA, FixedWeights, PCGrad

from .task_toy import TASKS, TaskToy, toy_task_runner

WRAPPER = 'mmseg_xmodal.GradientRuleOptimWrapper'


def train(path, rule, hook, balancer=None, **wrapper):
    runner = toy_task_runner(
        path,
        TaskToy(balancer=balancer),
        dict(type=WRAPPER, rule=rule, **wrapper),
        [dict(type='mmseg_xmodal.TaskBalanceHook', **hook)],
    )
    runner.train()
    (file,) = path.rglob('scalars.json')
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    ours = [line for line in lines if any('task_balance' in key for key in line)]
    return runner, ours


def test_scalars_and_picture(tmp_path):
    runner, lines = train(
        tmp_path,
        dict(type='mmseg_xmodal.UPGrad'),
        dict(interval=2, draw_interval=3),
        FixedWeights(TASKS, dict(c=0.5)),
    )
    assert [line['step'] for line in lines] == [2, 4, 6]
    wrapper = runner.optim_wrapper
    last = {k.removeprefix('task_balance/'): v for k, v in lines[-1].items()}
    assert set(last) == {
        'step',
        *(
            f'{kind}/{task}'
            for kind in ('loss', 'weight', 'norm', 'loss_weight')
            for task in TASKS
        ),
        *(f'cosine/{pair}' for pair in ('a-b', 'a-c', 'b-c')),
    }
    assert last['loss_weight/c'] == 0.5
    gram = wrapper.gram
    for i, task in enumerate(TASKS):
        assert last[f'norm/{task}'] == pytest.approx(float(gram[i, i].sqrt()))
        assert last[f'weight/{task}'] == pytest.approx(float(wrapper.weights[i]))
        assert last[f'loss/{task}'] == pytest.approx(float(wrapper.losses[i]))
    cosine = gram[0, 2] / (gram[0, 0] * gram[2, 2]).sqrt()
    assert last['cosine/a-c'] == pytest.approx(float(cosine))
    names = sorted(path.name for path in tmp_path.rglob('task_conflicts*'))
    assert names == ['task_conflicts_3.png', 'task_conflicts_6.png']


def test_sum_is_watched_only_where_it_is_logged(tmp_path):
    runner, lines = train(
        tmp_path,
        dict(type='mmseg_xmodal.SumRule'),
        dict(interval=5, draw_interval=0),
    )
    assert [line['step'] for line in lines] == [5]
    assert any('cosine' in key for key in lines[0])
    assert runner.optim_wrapper.gram is None, 'iteration 6 is not logged'
    assert not list(tmp_path.rglob('task_conflicts*'))


@pytest.mark.parametrize('space', ['parameters', 'features'])
def test_spaces_are_compared_as_updates(tmp_path, monkeypatch, space):
    """With the weights that the rule would have given, at its state of then."""
    seen = []
    own = PCGrad.forward

    def forward(rule, gram, losses, tasks=None):
        weights = own(rule, gram, losses, tasks)
        seen.append((int(rule.calls.count), gram.clone(), weights))
        return weights

    monkeypatch.setattr(PCGrad, 'forward', forward)
    _, lines = train(
        tmp_path,
        dict(type='mmseg_xmodal.PCGrad', seed=2),
        dict(interval=1, compare_spaces=True),
        gram_space=space,
    )
    logged = [line['task_balance/spaces_cosine'] for line in lines]
    expected = []
    for i in range(6):
        (count, gram, weights), (count_of_copy, other_gram, other) = seen[2 * i :][:2]
        assert count == count_of_copy == i + 1
        exact = other_gram if space == 'features' else gram
        lengths = [(w @ exact @ w).sqrt() for w in (weights, other)]
        expected.append(float(weights @ exact @ other / (lengths[0] * lengths[1])))
    assert logged == pytest.approx(expected, abs=1e-12)
    assert 0.5 < min(logged) < 1 - 1e-4


def test_it_changes_nothing(tmp_path):
    options = dict(interval=2, draw_interval=2, compare_spaces=True)
    with_hook, _ = train(tmp_path / 'a', dict(type='mmseg_xmodal.PCGrad'), options)
    without = toy_task_runner(
        tmp_path / 'b', TaskToy(), dict(type=WRAPPER, rule=PCGrad())
    )
    without.train()
    for key, value in without.model.state_dict().items():
        assert torch.equal(with_hook.model.state_dict()[key], value), key


@pytest.mark.parametrize('space', ['parameters', 'features'])
def test_spaces_are_not_compared_where_gradients_overflow(space):
    """In mixed precision. No rule takes such a matrix, this one raises."""
    grams = dict(parameters=torch.eye(2).double(), features=torch.eye(2).double())
    (own_space,) = set(grams) - {space}
    grams[space] = torch.full((2, 2), torch.nan).double()
    own = torch.ones(2).double()
    wrapper = SimpleNamespace(
        rule=MGDA(),
        tasks=('a', 'b'),
        losses=own,
        weights=own,
        gram_space=own_space,
        gram=grams[own_space],
        grams=grams,
        measure=lambda spaces: None,
    )
    wrapper.rule.bind(wrapper.tasks)
    lines = []
    runner = SimpleNamespace(
        iter=0,
        optim_wrapper=wrapper,
        model=torch.nn.Module(),
        logger=SimpleNamespace(info=lambda text: None),
        visualizer=SimpleNamespace(add_scalars=lambda v, step: lines.append(v)),
    )
    hook = TaskBalanceHook(interval=1, draw_interval=0, compare_spaces=True)
    hook.before_train_iter(runner, 0)
    hook.after_train_iter(runner, 0)
    assert 'task_balance/loss/a' in lines[0]
    assert 'task_balance/spaces_cosine' not in lines[0]


def test_a_skipped_step_is_not_logged():
    hook = TaskBalanceHook(interval=1)
    runner = SimpleNamespace(iter=0, optim_wrapper=SimpleNamespace(tasks=()))
    hook.after_train_iter(runner, 0)  # would need a visualizer


def test_wrong_use():
    runner = SimpleNamespace(optim_wrapper=object())
    with pytest.raises(TypeError, match='SumRule'):
        TaskBalanceHook().before_train(runner)
    for wrong in (dict(interval=0), dict(draw_interval=-1)):
        with pytest.raises(ValueError, match='TaskBalanceHook'):
            TaskBalanceHook(**wrong)
