"""The quadratic programs of the gradient rules against brute force."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from mmseg_xmodal.models.balancing.solvers import solve_nonnegative, solve_simplex

from .test_balancing_rules import vectors


def optimum(hessian: Tensor, linear: Tensor, total: bool) -> float:
    """Least value over all faces, by brute force."""
    best = float('inf') if total else 0.0
    count = len(linear)
    for size in range(1, count + 1):
        for chosen in itertools.combinations(range(count), size):
            rows = list(chosen)
            system = hessian[rows][:, rows]
            right = -linear[rows]
            if total:
                one = torch.ones(size, 1, dtype=torch.float64)
                corner = torch.zeros(1, 1, dtype=torch.float64)
                top = torch.cat([system, one], 1)
                system = torch.cat([top, torch.cat([one.T, corner], 1)])
                right = torch.cat([right, one[0]])
            w = torch.zeros(count, dtype=torch.float64)
            w[rows] = (torch.linalg.pinv(system, rtol=1e-11) @ right)[:size]
            fits = not total or abs(w.sum() - 1) < 1e-6
            if w.min() >= -1e-9 and fits:
                best = min(best, float(w @ hessian @ w / 2 + linear @ w))
    return best


@pytest.mark.parametrize('total', [False, True])
def test_solvers_find_the_optimum(total):
    solve = solve_simplex if total else solve_nonnegative
    for seed in range(60):
        count, length = 2 + seed % 4, 1 + seed % 7
        grads = vectors(count, length, seed, spread=seed % 3)
        if seed % 5 == 0:
            grads[0] = grads[1]
        if seed % 7 == 0:
            grads[0] = -grads[1]
        hessian = grads @ grads.T
        linear = hessian @ vectors(count, 1, seed + 1000)[:, 0] / 2
        w = solve(hessian, linear)
        value = float(w @ hessian @ w / 2 + linear @ w)
        assert w.min() >= 0
        assert not total or w.sum() == pytest.approx(1)
        expected = optimum(hessian, linear, total)
        assert value == pytest.approx(
            expected, rel=1e-7, abs=1e-9 * float(hessian.max())
        )


def test_solver_starts_anywhere():
    hessian = vectors() @ vectors().T
    expected = solve_simplex(hessian)
    for corner in torch.eye(4, dtype=torch.float64):
        torch.testing.assert_close(solve_simplex(hessian, start=corner), expected)
    even = torch.full((4,), 0.25, dtype=torch.float64)
    torch.testing.assert_close(solve_simplex(hessian, start=even), expected)
