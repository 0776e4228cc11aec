"""GradNorm: weights learned so that tasks train at one rate.

Paper: Chen, Badrinarayanan, Lee, Rabinovich, "GradNorm: Gradient Normalization for
Adaptive Loss Balancing in Deep Multitask Networks", ICML 2018,
https://arxiv.org/abs/1711.02257. Checked against LibMTL
(https://github.com/median-research-group/LibMTL, MIT). Clean room, nothing copied.

Differences from the paper: weights are ``T softmax(v)``, as in LibMTL, instead of
renormalised numbers; gradients are those of all shared parameters, not of the last
shared layer; the weights act on shared parameters only, as those of all our rules. From
LibMTL: ``v`` has an Adam of its own; the first losses are means over a number of
updates instead of the first epoch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmseg_xmodal.registry import MODELS

from .adam import AdamState
from .base import GradientRule


@MODELS.register_module()
class GradNorm(GradientRule):
    """Learn weights that bring ``w_t |g_t|`` near ``mean(w |g|) r_t^alpha``.

    ``r_t`` is the share of its first loss that a task still has, divided by the mean of
    these shares. ``v`` moves by the gradient of the sum of absolute differences, the
    targets taken as constants; no second derivative is needed.

    Args:
        tasks: Names of all tasks. Defaults to those of the first update.
        alpha: How strongly tasks that lag behind are pulled.
        lr: Learning rate of ``v``.
        warmup: Number of updates with a task over which its first loss is averaged. A
            task keeps the weight that it has until then.

    Raises:
        ValueError: If ``lr`` is not above 0 or ``warmup`` below 1.
    """

    v: Tensor
    first: Tensor
    seen: Tensor

    def __init__(
        self,
        tasks: Sequence[str] = (),
        alpha: float = 1.5,
        lr: float = 0.025,
        warmup: int = 1,
    ) -> None:
        super().__init__(tasks)
        if not lr > 0 or warmup < 1:
            raise ValueError(
                f'GradNorm has lr={lr} and warmup={warmup}, expected a number above 0 '
                'and 1 or more updates. Change them in the rule of optim_wrapper.'
            )
        self.alpha, self.lr, self.warmup = alpha, lr, warmup

    def init_state(self, count: int) -> None:
        """See :meth:`GradientRule.init_state`."""
        self.register_buffer('v', torch.zeros(count, dtype=torch.float64))
        self.register_buffer('first', torch.zeros(count, dtype=torch.float64))
        self.register_buffer('seen', torch.zeros(count, dtype=torch.int64))
        self.adam = AdamState(count, self.lr, dtype=torch.float64)

    def forward(
        self, gram: Tensor, losses: Tensor, tasks: Sequence[str] | None = None
    ) -> Tensor:
        """See :meth:`GradientRule.forward`; moves ``v`` after the weights are taken."""
        rows = self.rows(tasks, len(losses))
        weights = self.weights()[rows]
        known = self._note(rows, losses.double())
        if known.sum() > 1:
            full = torch.zeros_like(self.v)
            full[rows[known]] = self.gradient(
                gram[known][:, known], losses[known], rows[known]
            )
            moved = torch.zeros_like(self.v, dtype=torch.bool)
            moved[rows[known]] = True
            self.adam.step(self.v, full, moved)
        return weights

    def weights(self) -> Tensor:
        """Weights of all tasks; they add up to their number.

        Shape:
            - output: (T,), float64
        """
        return len(self.v) * torch.softmax(self.v, 0)

    def gradient(self, gram: Tensor, losses: Tensor, rows: Tensor) -> Tensor:
        """Gradient of the differences with respect to the entries ``rows`` of ``v``.

        Args:
            gram: Inner products of the gradients of these tasks.
            losses: Their losses.
            rows: Their numbers.

        Shape:
            - gram: (n, n)
            - losses, rows, output: (n,)
        """
        norms = gram.double().diagonal().clamp(min=0).sqrt()
        weights = self.weights()[rows]
        left = losses.double() / self.first[rows]
        target = (weights * norms).mean() * (left / left.mean()) ** self.alpha
        by_weight = torch.sign(weights * norms - target) * norms
        # The softmax over all tasks, of which these are a part.
        return weights * (by_weight - (by_weight @ weights) / len(self.v))

    def _note(self, rows: Tensor, losses: Tensor) -> Tensor:
        """Average first losses; return which are complete and can be divided by."""
        early = self.seen[rows] < self.warmup
        rate = (losses - self.first[rows]) / (self.seen[rows] + 1)
        self.first[rows] += torch.where(early, rate, 0.0)
        self.seen[rows] += 1
        return ~early & (self.first[rows] > 0) & (losses > 0)
