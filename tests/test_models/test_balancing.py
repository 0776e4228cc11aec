"""Loss balancers: formulas, tasks without labels, state."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from mmseg_xmodal.models.balancing import (
    FAMO,
    DynamicWeightAverage,
    FixedWeights,
    GeometricMeanLoss,
    IMTLLoss,
    LossBalancer,
    RandomLossWeighting,
    UncertaintyWeighting,
    base,
)
from mmseg_xmodal.registry import MODELS

TASKS = ['seg', 'depth', 'det']
BALANCERS = {
    'FixedWeights': dict(weights=dict(depth=0.5)),
    'UncertaintyWeighting': dict(kinds=dict(seg='classification')),
    'DynamicWeightAverage': dict(window=2),
    'GeometricMeanLoss': {},
    'RandomLossWeighting': {},
    'IMTLLoss': {},
    'FAMO': dict(second_forward=False),
}


def losses(*values: float, tasks=TASKS) -> dict[str, torch.Tensor]:
    return {
        task: torch.tensor(float(value), requires_grad=True)
        for task, value in zip(tasks, values, strict=True)
    }


def gradients(balancer: LossBalancer, given: dict) -> list[float]:
    terms = balancer(given)
    assert list(terms) == list(given)
    sum(terms.values()).backward()
    return [loss.grad.item() for loss in given.values()]


@pytest.fixture(params=BALANCERS)
def balancer(request) -> LossBalancer:
    cfg = dict(type=f'mmseg_xmodal.{request.param}', **BALANCERS[request.param])
    return MODELS.build(dict(cfg, tasks=TASKS))


def test_terms_carry_the_weights(balancer):
    """The gradient of every term is the weight that is logged."""
    for step in range(6):
        given = losses(1.5, 0.4 + 0.1 * step, 3.2)
        grads = gradients(balancer, given)
        assert all(math.isfinite(g) and g > 0 for g in grads)
        logged = [balancer.last_weights[task].item() for task in TASKS]
        assert grads == pytest.approx(logged, rel=1e-6)


def test_tasks_without_labels(balancer):
    for tasks in (['depth'], ['det', 'seg'], []):
        terms = balancer(losses(*range(1, len(tasks) + 1), tasks=tasks))
        assert list(terms) == tasks
        assert list(balancer.last_weights) == [t for t in TASKS if t in tasks]
        assert all(term.isfinite() for term in terms.values())


def test_unknown_tasks(balancer):
    with pytest.raises(ValueError, match=r"\['edge'\].*\['seg', 'depth', 'det'\]"):
        balancer(losses(1.0, tasks=['edge']))


@pytest.mark.parametrize('tasks', [[], ['seg', 'seg'], 'seg'])
def test_wrong_tasks(tasks):
    with pytest.raises(ValueError, match='different names'):
        FixedWeights(tasks)


def test_state_goes_through_the_checkpoint(balancer):
    other = copy.deepcopy(balancer)
    series = [(1.5, 0.4, 3.2), (1.4, 0.5, 2.0), (1.0, 0.3, 1.9), (0.9, 0.3, 1.0)]

    def move(b: LossBalancer, values: tuple) -> list[float]:
        grads = gradients(b, losses(*values))
        with torch.no_grad():
            for parameter in b.parameters():
                parameter -= 0.1 * parameter.grad
                parameter.grad = None
        return grads

    for values in series[:3]:
        move(balancer, values)
    other.load_state_dict(balancer.state_dict())
    for values in series:
        assert move(other, values) == move(balancer, values)


def test_no_state_moves_in_evaluation(balancer):
    balancer(losses(1.5, 0.4, 3.2))
    before = copy.deepcopy(balancer.state_dict())
    balancer.eval()(losses(1.0, 0.7, 2.2))
    for key, value in balancer.state_dict().items():
        assert torch.equal(value.nan_to_num(-1), before[key].nan_to_num(-1)), key


def test_ranks_use_the_losses_of_all(balancer, monkeypatch):
    """The weights of two ranks with different losses and labels are the same."""
    ranks = [losses(1.0, 3.0, tasks=['seg', 'det']), losses(2.0, 0.4, 1.0)]
    sent: list[torch.Tensor] = []

    def collect(tensor, op):
        assert op == 'sum'
        sent.append(tensor.clone())

    start = copy.deepcopy(balancer)
    monkeypatch.setattr(base, 'all_reduce', collect)
    for given in ranks:
        copy.deepcopy(start)(given)
    if not sent:  # the weights do not follow from the losses
        assert isinstance(
            balancer,
            FixedWeights | UncertaintyWeighting | IMTLLoss | RandomLossWeighting,
        )
        sent = [torch.zeros(2, 3)] * 2
    monkeypatch.setattr(base, 'all_reduce', lambda t, op: t.copy_(sent[0] + sent[1]))
    twins = [copy.deepcopy(start) for _ in ranks]
    for twin, given in zip(twins, ranks, strict=True):
        twin(given)
    for task in ('seg', 'det'):
        assert torch.equal(twins[0].last_weights[task], twins[1].last_weights[task])
    for key, value in twins[0].state_dict().items():
        torch.testing.assert_close(value, twins[1].state_dict()[key], equal_nan=True)


def test_fixed_weights():
    balancer = FixedWeights(TASKS, dict(depth=0.5, det=0))
    assert gradients(balancer, losses(1.0, 2.0, 3.0)) == [1, 0.5, 0]
    assert not balancer.state_dict()
    for weights in (dict(depth=-1.0), dict(seg=float('nan'))):
        with pytest.raises(ValueError, match='finite numbers of 0 or more'):
            FixedWeights(TASKS, weights)
    with pytest.raises(ValueError, match=r"\['edge'\]"):
        FixedWeights(TASKS, dict(edge=1.0))


def test_uncertainty_weighting():
    balancer = UncertaintyWeighting(
        TASKS, kinds=dict(seg='classification'), init=dict(depth=-0.5)
    )
    given = losses(1.5, 0.4, 3.2)
    terms = balancer(given)
    expected = [1.5, math.exp(0.5) / 2 * 0.4 - 0.25, 3.2 / 2]
    assert [t.item() for t in terms.values()] == pytest.approx(expected)
    sum(terms.values()).backward()
    grad = [-1.5 + 0.5, -math.exp(0.5) / 2 * 0.4 + 0.5, -1.6 + 0.5]
    assert balancer.log_var.grad.tolist() == pytest.approx(grad)
    with pytest.raises(ValueError, match="'regression' or 'classification'"):
        UncertaintyWeighting(TASKS, kinds='segmentation')


def test_uncertainty_weighting_finds_its_optimum():
    """For constant losses exp(s) = L (regression) and 2 L (classification)."""
    balancer = UncertaintyWeighting(TASKS, kinds=dict(seg='classification'))
    optimizer = torch.optim.Adam(balancer.parameters(), lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        sum(balancer(losses(1.5, 0.4, 3.2)).values()).backward()
        optimizer.step()
    expected = [3.0, 0.4, 3.2]
    assert balancer.log_var.exp().tolist() == pytest.approx(expected, rel=1e-3)


def test_imtl_l_brings_losses_to_one():
    balancer = IMTLLoss(TASKS)
    optimizer = torch.optim.Adam(balancer.parameters(), lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        terms = balancer(losses(1.5, 0.4, 3.2))
        sum(terms.values()).backward()
        optimizer.step()
    weighted = balancer.scales.exp() * torch.tensor([1.5, 0.4, 3.2])
    assert weighted.tolist() == pytest.approx([1, 1, 1], rel=1e-3)


def test_dwa_compares_windows():
    balancer = DynamicWeightAverage(TASKS, window=2, temperature=1.5)
    # Windows: (3, 2, 1), (1.5, 2, none), (1, 1, 1); depth misses one batch.
    series = [
        losses(4.0, 2.0, 1.0),
        losses(2.0, 2.0, 1.0),
        losses(1.0, 2.0, tasks=['seg', 'depth']),
        losses(2.0, tasks=['seg']),
        losses(1.0, 1.0, 1.0),
        losses(1.0, 1.0, 1.0),
        losses(1.0, 1.0, 1.0),
    ]
    weights = []
    for given in series:
        balancer(given)
        weights.append({t: w.item() for t, w in balancer.last_weights.items()})
    for early in weights[:4]:
        assert set(early.values()) == {1.0}
    second = 3 * torch.softmax(torch.tensor([0.5, 1.0, 1.0]) / 1.5, 0)
    assert list(weights[4].values()) == pytest.approx(second.tolist())
    assert weights[5] == weights[4]
    third = 3 * torch.softmax(torch.tensor([1 / 1.5, 0.5, 1.0]) / 1.5, 0)
    assert list(weights[6].values()) == pytest.approx(third.tolist())
    with pytest.raises(ValueError, match='window=0'):
        DynamicWeightAverage(TASKS, window=0)


def test_gls_is_the_geometric_mean():
    given = losses(1.5, 0.4, 3.2)
    mean = (given['seg'] * given['depth'] * given['det']) ** (1 / 3)
    expected = [g.item() for g in torch.autograd.grad(mean, list(given.values()))]
    terms = GeometricMeanLoss(TASKS)(given)
    assert sum(terms.values()).item() == pytest.approx(mean.item())
    sum(terms.values()).backward()
    assert [v.grad.item() for v in given.values()] == pytest.approx(expected)


def test_gls_leaves_a_loss_of_zero_out():
    grads = gradients(GeometricMeanLoss(TASKS), losses(2.0, 0.0, 8.0))
    assert grads == pytest.approx([1.0, 0.0, 0.25])  # mean 4, halved by the root


def test_rlw_draws_by_iteration():
    one, two = RandomLossWeighting(TASKS, seed=1), RandomLossWeighting(TASKS, seed=1)
    drawn = [gradients(one, losses(1.0, 1.0, 1.0)) for _ in range(50)]
    assert [gradients(two, losses(9.0, 1.0, 2.0)) for _ in range(50)] == drawn
    assert len({tuple(d) for d in drawn}) == 50
    assert [sum(d) for d in drawn] == pytest.approx([1.0] * 50)
    other = RandomLossWeighting(TASKS, seed=2)
    assert gradients(other, losses(1.0, 1.0, 1.0)) != drawn[0]
    # A rank that lacks a task draws the same for the others.
    lacking = RandomLossWeighting(TASKS, seed=1)
    assert gradients(lacking, losses(1.0, 1.0, tasks=['seg', 'det'])) == drawn[0][::2]


def test_famo_formula():
    balancer = FAMO(TASKS)
    balancer.hooked = True
    balancer.logits.copy_(torch.tensor([0.1, -0.3, 0.2]))
    given = losses(1.5, 0.4, 3.2)
    z = torch.softmax(balancer.logits, 0)
    values = torch.tensor([1.5, 0.4, 3.2])
    logs = [loss.log() for loss in given.values()]
    factor = 1 / (z / values).sum()
    objective = factor * sum(w * log for w, log in zip(z, logs, strict=True))
    expected = [g.item() for g in torch.autograd.grad(objective, [*given.values()])]
    assert gradients(balancer, given) == pytest.approx(expected, rel=1e-5)
    # Adam's first step goes by the learning rate against the sign of the gradient.
    before = balancer.logits.clone()
    with balancer.measuring():
        same = balancer(losses(1.4, 0.2, 3.1))
    assert [loss.item() for loss in same.values()] == pytest.approx([1.4, 0.2, 3.1])
    moved = (balancer.logits - before).tolist()
    assert moved == pytest.approx([0.025, -0.025, 0.025], rel=1e-3)


def test_famo_adam_is_that_of_torch():
    balancer = FAMO(['a', 'b'], lr=0.1, weight_decay=0.01)
    value = nn.Parameter(torch.tensor([0.5, -0.5]))
    optimizer = torch.optim.Adam([value], lr=0.1, weight_decay=0.01)
    balancer.logits.copy_(value.detach())
    for i in range(5):
        grad = torch.tensor([0.3 - 0.1 * i, -0.2])
        value.grad = grad.clone()
        optimizer.step()
        balancer.adam.step(balancer.logits, grad, torch.tensor([True, True]))
        torch.testing.assert_close(balancer.logits, value.detach())
    before = balancer.logits.clone()
    balancer.adam.step(balancer.logits, torch.ones(2), torch.tensor([False, True]))
    assert balancer.logits[0] == before[0]
    assert balancer.logits[1] != before[1]


def test_famo_leaves_tasks_alone_that_are_not_measured_twice():
    balancer = FAMO(TASKS, second_forward=False)
    balancer(losses(1.0, 2.0, tasks=['seg', 'depth']))
    assert balancer.logits.tolist() == [0, 0, 0]
    balancer(losses(0.5, 1.9, 1.0))
    assert balancer.logits[0] < 0 < balancer.logits[1]
    assert balancer.logits[2] == 0
    # Not moved, and not poisoned either.
    before = balancer.logits.clone()
    balancer(losses(float('nan'), float('inf'), 1.0))
    assert torch.equal(balancer.logits[:2], before[:2])
    assert balancer.logits.isfinite().all()


def test_famo_without_its_hook():
    balancer = FAMO(TASKS)
    balancer(losses(1.0, 1.0, 1.0))
    with pytest.raises(RuntimeError, match='FAMOHook'):
        balancer(losses(1.0, 1.0, 1.0))
    balancer.eval()(losses(1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match='above 0'):
        FAMO(TASKS, lr=0)
