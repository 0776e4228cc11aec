"""CAGrad: conflict-averse gradient descent.

Paper: Liu et al., "Conflict-Averse Gradient Descent for Multi-task Learning", NeurIPS
2021, https://arxiv.org/abs/2110.14048. Checked against LibMTL
(https://github.com/median-research-group/LibMTL, MIT). Clean room, nothing copied.

Difference: the official code leaves the inner problem to scipy's SLSQP. Here its root
becomes a quadratic program, ``k |g| = min_r k (|g|^2 / r + r) / 2``, whose ``r`` is
found by regula falsi on its square: exact, and without scipy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mmseg_xmodal.registry import MODELS

from .base import GradientRule
from .solvers import solve_simplex

_ROUNDS = 60


@MODELS.register_module()
class CAGrad(GradientRule):
    """Step near the mean gradient that lowers the worst task the most.

    ``d = g_0 + c |g_0| g_w / |g_w|``, where ``g_0`` is the mean gradient and ``w`` on
    the simplex minimises ``<g_w, g_0> + c |g_0| |g_w|``.

    Args:
        tasks: Names of all tasks. Defaults to those of the first update.
        c: Radius around the mean gradient, relative to its length, in [0, 1).
        rescale: What ``d`` is divided by: 0 nothing, 1 ``1 + c^2``, 2 ``1 + c``.

    Raises:
        ValueError: If ``c`` or ``rescale`` is out of its range.
    """

    def __init__(
        self, tasks: Sequence[str] = (), c: float = 0.5, rescale: int = 1
    ) -> None:
        super().__init__(tasks)
        if not 0 <= c < 1 or rescale not in (0, 1, 2):
            raise ValueError(
                f'CAGrad has c={c} and rescale={rescale}, expected a number in [0, 1) '
                'and 0, 1 or 2. Change them in the rule of optim_wrapper.'
            )
        self.c, self.rescale = c, rescale

    def forward(
        self, gram: Tensor, losses: Tensor, tasks: Sequence[str] | None = None
    ) -> Tensor:
        """See :meth:`GradientRule.forward`."""
        gram = gram.double()
        mean = torch.full((len(gram),), 1 / len(gram), dtype=torch.float64)
        radius = self.c * _norm(gram, mean)
        w = self.simplex(gram)
        length = _norm(gram, w)
        # At a point where the gradients cancel there is no direction to add.
        pull = w * (radius / length) if length > 1e-9 * _size(gram) else 0 * w
        divisor = (1.0, 1 + self.c**2, 1 + self.c)[self.rescale]
        return (mean + pull) / divisor

    def simplex(self, gram: Tensor) -> Tensor:
        """The worst-case combination ``w``.

        Shape:
            - gram: (T, T)
            - output: (T,), float64, adds up to 1
        """
        gram = gram.double()
        linear = gram.mean(1)
        mean = torch.full_like(linear, 1 / len(gram))
        strength = self.c * _norm(gram, mean)
        if strength <= 1e-12 * _size(gram):
            # The mean gradient or c vanishes: w has no influence on the step.
            return mean

        def solve(square: float, start: Tensor | None) -> tuple[Tensor, float]:
            """The program at r^2, and how far |g_w|^2 lies above r^2."""
            w = solve_simplex(gram * (strength / square**0.5), linear, start)
            return w, float(w @ gram @ w) - square

        return _regula_falsi(solve, float(gram.diagonal().max()))


def _norm(gram: Tensor, w: Tensor) -> float:
    return float((w @ gram @ w).clamp(min=0).sqrt())


def _size(gram: Tensor) -> float:
    return float(gram.diagonal().max().clamp(min=0).sqrt())


def _regula_falsi(
    solve: Callable[[float, Tensor | None], tuple[Tensor, float]], high: float
) -> Tensor:
    """Solve at the root of an excess that changes its sign once below ``high``.

    The excess is piecewise linear, so that the rule (in its Illinois form) ends after a
    few rounds.
    """
    end = high
    low = 1e-12 * end
    w, above = solve(low, None)
    if above <= 0:
        return w
    below = solve(high, None)[1]
    side = 0
    for _ in range(_ROUNDS):
        middle = high - below * (high - low) / (below - above)
        w, excess = solve(middle, w)
        if abs(excess) <= 1e-13 * end:
            break
        # An end that stays twice counts half, or it would stay for ever.
        if excess > 0:
            low, above = middle, excess
            below = below / 2 if side > 0 else below
            side = 1
        else:
            high, below = middle, excess
            above = above / 2 if side < 0 else above
            side = -1
    return w
