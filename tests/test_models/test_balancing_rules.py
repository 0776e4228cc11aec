"""Gradient rules: weights from the Gram matrix against explicit vectors in float64."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from mmseg_xmodal.models.balancing import (
    IMTLG,
    MGDA,
    AlignedMTL,
    CAGrad,
    GradNorm,
    PCGrad,
    SumRule,
    UPGrad,
)
from mmseg_xmodal.registry import MODELS

RULES = ('SumRule', 'PCGrad', 'CAGrad', 'MGDA', 'IMTLG', 'AlignedMTL', 'UPGrad')


def vectors(count: int = 4, length: int = 9, seed: int = 0, spread: float = 1.0):
    """Gradients in float64, conflicting, with lengths that differ."""
    generator = torch.Generator().manual_seed(seed)
    grads = torch.randn(count, length, generator=generator, dtype=torch.float64)
    return grads * torch.logspace(0, spread, count, dtype=torch.float64)[:, None]


def degenerate() -> dict[str, Tensor]:
    grads = vectors(3)
    return dict(
        parallel=torch.stack([grads[0], 2 * grads[0], grads[1]]),
        opposite=torch.stack([grads[0], -grads[0], grads[1]]),
        cancelling=torch.stack([grads[0], grads[1], -grads[0] - grads[1]]),
        zero=torch.stack([grads[0], 0 * grads[0], grads[1]]),
        all_zero=0 * grads,
        many=vectors(6, 2),
        far_apart=vectors(4, 9, spread=8),
        tiny=1e-9 * grads,
    )


def weigh(rule, grads: Tensor, losses: Tensor | None = None) -> Tensor:
    if losses is None:
        losses = torch.linspace(0.5, 2, len(grads))
    return rule(grads @ grads.T, losses)


def update(rule, grads: Tensor, losses: Tensor | None = None) -> Tensor:
    return weigh(rule, grads, losses) @ grads


@pytest.mark.parametrize('name', [*RULES, 'GradNorm'])
@pytest.mark.parametrize('case', degenerate())
def test_degenerate_gradients_give_finite_weights(name, case):
    grads = degenerate()[case]
    rule = MODELS.build(dict(type=f'mmseg_xmodal.{name}'))
    for _ in range(2):
        weights = weigh(rule, grads)
        assert weights.dtype == torch.float64
        assert weights.shape == (len(grads),)
        assert weights.isfinite().all()


@pytest.mark.parametrize('name', [*RULES, 'GradNorm'])
def test_float32_gram_is_computed_in_double(name):
    rule = MODELS.build(dict(type=f'mmseg_xmodal.{name}'))
    gram = (vectors() @ vectors().T).float()
    one = copy.deepcopy(rule)(gram, torch.ones(4))
    assert torch.equal(one, rule(gram.double(), torch.ones(4)))


@pytest.mark.parametrize('name', RULES)
def test_weights_do_not_depend_on_the_scale(name):
    rule = MODELS.build(dict(type=f'mmseg_xmodal.{name}'))
    one, two = copy.deepcopy(rule), copy.deepcopy(rule)
    expected = weigh(one, vectors())
    torch.testing.assert_close(weigh(two, 1e4 * vectors()), expected)


def test_sum():
    assert weigh(SumRule(), vectors()).tolist() == [1, 1, 1, 1]
    assert not SumRule.needs_gram


def test_pcgrad_projects_vectors():
    grads = vectors()
    orders = [[2, 0, 1, 3], [3, 2, 1, 0], [0, 1, 2, 3], [1, 0, 3, 2]]
    expected = torch.zeros(9, dtype=torch.float64)
    conflicts = 0
    for i, order in enumerate(orders):
        own = grads[i].clone()
        for j in order:
            product = own @ grads[j]
            if j != i and product < 0:
                conflicts += 1
                own = own - product / (grads[j] @ grads[j]) * grads[j]
        expected += own
    assert conflicts > 3
    torch.testing.assert_close(update(PCGrad(orders=orders), grads), expected)


@pytest.mark.parametrize('others_only', [True, False])
def test_pcgrad_against_the_gradient_itself(others_only):
    """As in the paper, or as LibMTL, which differ where a gradient is turned round."""
    grads = torch.tensor([[1, -2], [0, 1], [-1, 1]], dtype=torch.float64)
    orders = [[1, 2, 0], [2, 0, 1], [0, 1, 2]]
    expected = torch.zeros(2, dtype=torch.float64)
    for i, order in enumerate(orders):
        own = grads[i].clone()
        for j in order:
            if (j != i or not others_only) and own @ grads[j] < 0:
                own -= own @ grads[j] / grads[j].square().sum() * grads[j]
        if i == 0:
            assert own.tolist() == pytest.approx(
                [0.5, 0.5] if others_only else [0.6, 0.3]
            )
        expected += own
    rule = PCGrad(orders=orders, others_only=others_only)
    torch.testing.assert_close(update(rule, grads), expected)
    if others_only:
        assert torch.equal(weigh(PCGrad(orders=orders), grads), weigh(rule, grads))


def test_pcgrad_leaves_agreement_alone():
    assert weigh(PCGrad(), vectors().abs()).tolist() == [1, 1, 1, 1]


def test_pcgrad_orders_follow_from_seed_and_update():
    one, two = PCGrad(seed=5), PCGrad(seed=5)
    drawn = [weigh(one, vectors()) for _ in range(8)]
    for expected in drawn:
        assert torch.equal(weigh(two, vectors()), expected)
    assert len({tuple(w.tolist()) for w in drawn}) > 1
    state, resumed = one.state_dict(), PCGrad(seed=5)
    resumed.load_state_dict(state)
    assert torch.equal(weigh(resumed, vectors()), weigh(one, vectors()))
    with pytest.raises(ValueError, match='4 permutations'):
        weigh(PCGrad(orders=[[0, 1], [1, 0]]), vectors())


def test_cagrad_against_a_grid():
    grads = vectors(3)
    rule = CAGrad(c=0.4)
    mean = grads.mean(0)
    steps = torch.linspace(0, 1, 201, dtype=torch.float64)
    grid = torch.cartesian_prod(steps, steps)
    grid = torch.cat([grid, 1 - grid.sum(1, keepdim=True)], 1)
    grid = grid[grid[:, 2] >= 0]

    def objective(w: Tensor) -> Tensor:
        g_w = w @ grads
        return g_w @ mean + 0.4 * mean.norm() * g_w.norm(dim=-1)

    w = rule.simplex(grads @ grads.T)
    best = objective(grid).min()
    assert w.min() >= 0
    assert w.sum() == pytest.approx(1)
    assert best - 1e-3 * abs(best) < objective(w) <= best + 1e-12
    g_w = w @ grads
    direction = mean + 0.4 * mean.norm() * g_w / g_w.norm()
    for rescale, divisor in enumerate((1, 1 + 0.4**2, 1 + 0.4)):
        ours = update(CAGrad(c=0.4, rescale=rescale), grads)
        torch.testing.assert_close(ours, direction / divisor)


@pytest.mark.parametrize('c', [0.1, 0.5, 0.95])
def test_cagrad_is_stationary(c):
    """No corner of the simplex is downhill: the objective is convex."""
    for seed in range(12):
        grads = vectors(2 + seed % 4, 6, seed, spread=seed % 3)
        gram = grads @ grads.T
        w = CAGrad(c=c).simplex(gram)
        g_w, mean = w @ grads, grads.mean(0)
        slope = grads @ mean + c * mean.norm() * (grads @ g_w) / g_w.norm()
        assert slope @ w - slope.min() < 1e-6 * gram.max()


def test_cagrad_without_a_radius_is_the_mean():
    torch.testing.assert_close(update(CAGrad(c=0.0), vectors()), vectors().mean(0))
    for wrong in (dict(c=1.0), dict(rescale=3)):
        with pytest.raises(ValueError, match='CAGrad'):
            CAGrad(**wrong)


@pytest.mark.parametrize('normalisation', ['none', 'l2', 'loss', 'loss+'])
def test_mgda_has_the_least_norm(normalisation):
    grads, losses = vectors(), torch.tensor([0.5, 1.5, 2.0, 0.1])
    divided = grads.clone()
    if normalisation in ('l2', 'loss+'):
        divided /= grads.norm(dim=1, keepdim=True)
    if normalisation in ('loss', 'loss+'):
        divided /= losses[:, None]
    step = update(MGDA(normalisation=normalisation), grads, losses)
    # The least vector of a convex hull has no less than its own squared norm with all.
    assert (divided @ step >= step @ step - 1e-9).all()
    rest, *_ = np.linalg.lstsq(divided.T.numpy(), step.numpy(), rcond=None)
    assert rest.min() > -1e-9
    assert rest.sum() == pytest.approx(1)
    with pytest.raises(ValueError, match='normalisation'):
        MGDA(normalisation='l1')


def test_imtl_g_projects_alike():
    grads = vectors()
    step = update(IMTLG(), grads)
    projections = grads @ step / grads.norm(dim=1)
    torch.testing.assert_close(projections, projections[:1].expand(4))
    assert weigh(IMTLG(), grads).sum() == pytest.approx(1)


def test_imtl_g_leaves_a_gradient_of_zero_out():
    grads = vectors(3)
    holed = torch.stack([grads[0], 0 * grads[0], grads[1], grads[2]])
    weights = weigh(IMTLG(), holed)
    torch.testing.assert_close(weights[[0, 2, 3]], weigh(IMTLG(), grads))


def test_aligned_mtl_aligns_by_singular_vectors():
    grads = vectors()
    u, s, vt = torch.linalg.svd(grads, full_matrices=False)
    aligned = s.min() * u @ vt
    torch.testing.assert_close(update(AlignedMTL(), grads), aligned.sum(0))


def test_upgrad_projects_on_the_dual_cone():
    grads = vectors(5, 7, seed=3)
    projections = []
    for own in grads:
        # The projection is the point of the cone that is nearest, found by brute
        # force over the gradients that it is perpendicular to.
        best = None
        for size in range(len(grads)):
            for chosen in itertools.combinations(range(len(grads)), size):
                rows = grads[list(chosen)]
                point = own - rows.T @ torch.linalg.pinv(rows.T) @ own if size else own
                inside = (grads @ point >= -1e-9).all()
                if inside and (best is None or (point - own).norm() < best[0]):
                    best = ((point - own).norm(), point)
        projections.append(best[1])
    expected = torch.stack(projections).mean(0)
    ours = update(UPGrad(), grads)
    torch.testing.assert_close(ours, expected)
    assert (grads @ ours >= -1e-9).all()
    assert (grads @ grads.mean(0)).min() < 0, 'the mean conflicts with a gradient'


def test_upgrad_without_conflict_is_the_mean():
    grads = vectors().abs()
    torch.testing.assert_close(update(UPGrad(), grads), grads.mean(0))


def test_gradnorm_follows_its_objective():
    grads = vectors(3)
    rule = GradNorm(['a', 'b', 'c'], alpha=0.7, lr=0.1)
    assert weigh(rule, grads, torch.tensor([2.0, 1.0, 4.0])).tolist() == [1, 1, 1]
    assert rule.v.tolist() == [0, 0, 0], 'the first losses are taken first'
    losses = torch.tensor([1.0, 0.9, 1.0], dtype=torch.float64)
    v = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    lengths = 3 * torch.softmax(v, 0) * grads.norm(dim=1)
    left = losses / torch.tensor([2.0, 1.0, 4.0])
    target = lengths.mean() * (left / left.mean()) ** 0.7
    (lengths - target.detach()).abs().sum().backward()
    rows = torch.arange(3)
    ours = rule.gradient(grads @ grads.T, losses, rows)
    torch.testing.assert_close(ours, v.grad)
    assert weigh(rule, grads, losses).tolist() == [1, 1, 1], 'before v moves'
    torch.testing.assert_close(rule.v, -0.1 * v.grad.sign(), rtol=1e-6, atol=0)
    assert weigh(rule, grads, losses).sum() == pytest.approx(3)


def test_gradnorm_with_fewer_tasks():
    rule = GradNorm(['a', 'b', 'c'])
    grads = vectors(3)
    for _ in range(3):
        weigh(rule, grads)
    v = rule.v.clone()
    gram = grads[[0, 2]] @ grads[[0, 2]].T
    # In another order than that of the rule.
    weights = rule(gram, torch.tensor([1.0, 2.0]), ['c', 'a'])
    torch.testing.assert_close(weights, 3 * torch.softmax(v, 0)[[2, 0]])
    assert rule.v[1] == v[1]
    assert rule.v[0] != v[0]
    assert rule.seen.tolist() == [4, 3, 4]


def test_gradnorm_averages_its_first_losses():
    rule = GradNorm(['a', 'b'], warmup=3)
    for value in (1.0, 2.0, 6.0, 9.0):
        rule(torch.eye(2), torch.tensor([value, 2 * value]))
    assert rule.first.tolist() == pytest.approx([3, 6])
    for wrong in (dict(lr=0), dict(warmup=0)):
        with pytest.raises(ValueError, match='GradNorm'):
            GradNorm(**wrong)


def test_a_rule_keeps_its_tasks():
    rule = GradNorm(['a', 'b'])
    rule.bind(['b', 'a'])
    assert rule.tasks == ('b', 'a')
    with pytest.raises(ValueError, match=r"\['b', 'a'\].*\['a', 'c'\]"):
        rule.bind(['a', 'c'])
    with pytest.raises(ValueError, match=r"the tasks \['a', 'b'\]"):
        GradNorm(['a', 'b']).bind(['a', 'b', 'c'])
    for wrong in (['a'], ['a', 'a']):
        with pytest.raises(ValueError, match='GradNorm'):
            GradNorm(wrong)
