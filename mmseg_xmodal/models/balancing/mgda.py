"""MGDA: the shortest vector in the convex hull of the gradients.

Papers: Désidéri, "Multiple-gradient descent algorithm (MGDA) for multiobjective
optimization", Comptes Rendus Mathématique 2012; Sener and Koltun, "Multi-Task Learning
as Multi-Objective Optimization", NeurIPS 2018, https://arxiv.org/abs/1810.04650.
Checked against LibMTL (https://github.com/median-research-group/LibMTL, MIT). Clean
room, nothing copied.

Difference: the point of least norm is computed exactly (active set) instead of by
Frank-Wolfe steps up to a threshold.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmseg_xmodal.registry import MODELS

from .base import GradientRule
from .solvers import solve_simplex

_NORMALISATIONS = ('none', 'l2', 'loss', 'loss+')


@MODELS.register_module()
class MGDA(GradientRule):
    """Step along the least convex combination of the gradients.

    It lowers every loss, or is 0 where none can fall without another rising.

    Args:
        tasks: Names of all tasks. Defaults to those of the first update.
        normalisation: What each gradient is divided by before: ``'none'`` 1, ``'l2'``
            its norm, ``'loss'`` the loss, ``'loss+'`` their product. The step is a
            combination of the divided gradients, as in the official code.

    Raises:
        ValueError: If the normalisation is unknown.
    """

    def __init__(self, tasks: Sequence[str] = (), normalisation: str = 'none') -> None:
        super().__init__(tasks)
        if normalisation not in _NORMALISATIONS:
            raise ValueError(
                f'MGDA has normalisation={normalisation!r}, expected one of '
                f'{list(_NORMALISATIONS)}. Change it in the rule of optim_wrapper.'
            )
        self.normalisation = normalisation

    def forward(
        self, gram: Tensor, losses: Tensor, tasks: Sequence[str] | None = None
    ) -> Tensor:
        """See :meth:`GradientRule.forward`."""
        return self.simplex(gram, losses) / self._divisors(gram, losses)

    def simplex(self, gram: Tensor, losses: Tensor) -> Tensor:
        """The convex combination of the divided gradients.

        Shape:
            - gram: (T, T)
            - losses, output: (T,); the output is float64 and adds up to 1
        """
        divisors = self._divisors(gram, losses)
        return solve_simplex(gram.double() / divisors.outer(divisors))

    def _divisors(self, gram: Tensor, losses: Tensor) -> Tensor:
        divisors = torch.ones(len(gram), dtype=torch.float64)
        if self.normalisation in ('l2', 'loss+'):
            divisors = divisors * gram.double().diagonal().clamp(min=0).sqrt()
        if self.normalisation in ('loss', 'loss+'):
            divisors = divisors * losses.double()
        # A gradient of 0 stays 0, and a loss of 0 has no better divisor.
        return torch.where(divisors > 0, divisors, 1.0)
