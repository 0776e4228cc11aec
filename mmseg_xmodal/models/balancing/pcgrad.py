"""PCGrad: project conflicting gradients.

Paper: Yu et al., "Gradient Surgery for Multi-Task Learning", NeurIPS 2020,
https://arxiv.org/abs/2001.06782. Checked against LibMTL
(https://github.com/median-research-group/LibMTL, MIT). Clean room, nothing copied.

Differences: the random order follows from a seed and the number of the update, so that
all ranks agree; nothing is added to the squared norm in the denominator (LibMTL adds
1e-8, which weakens the projection of small gradients). As in the paper and in LibMTL
the update is the sum of the projected gradients, not their mean. The paper projects a
gradient against the others only; LibMTL against the gradient itself as well, which acts
where the others have turned it round. Default is the paper; ``others_only``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mmseg_xmodal.registry import MODELS

from .base import Counter, GradientRule


@MODELS.register_module()
class PCGrad(GradientRule):
    """Take from each gradient what points against another.

    Task by task, the gradient is projected on the normal plane of each of the others
    with which it has a negative product, one after the other.

    Args:
        tasks: Names of all tasks. Defaults to those of the first update.
        seed: Seed of the orders.
        orders: For each task the order in which the others come, by number; its own
            number is passed over. Defaults to an order drawn in every update.
        others_only: As in the paper. False: a task's own number in the order counts
            too, as in LibMTL: a gradient that has a negative product with what it was
            before is projected on the normal plane of that. It takes three tasks.

    Raises:
        ValueError: If ``orders`` does not fit the number of tasks (at an update).
    """

    def __init__(
        self,
        tasks: Sequence[str] = (),
        seed: int = 0,
        orders: Sequence[Sequence[int]] | None = None,
        others_only: bool = True,
    ) -> None:
        super().__init__(tasks)
        self.seed, self.others_only = seed, others_only
        self.orders = None if orders is None else [list(order) for order in orders]
        self.calls = Counter()

    def forward(
        self, gram: Tensor, losses: Tensor, tasks: Sequence[str] | None = None
    ) -> Tensor:
        """See :meth:`GradientRule.forward`."""
        gram = gram.double()
        count = len(gram)
        # Row i: the i-th projected gradient in terms of the original ones.
        coefficients = torch.eye(count, dtype=torch.float64)
        for i, order in enumerate(self._orders(count)):
            for j in order:
                if j == i and self.others_only:
                    continue
                product = coefficients[i] @ gram[:, j]
                if product < 0 and gram[j, j] > 0:
                    coefficients[i, j] -= product / gram[j, j]
        return coefficients.sum(0)

    def _orders(self, count: int) -> list[list[int]]:
        if self.orders is None:
            rng = np.random.default_rng((self.seed, self.calls.next()))
            return [rng.permutation(count).tolist() for _ in range(count)]
        fits = len(self.orders) == count
        if not fits or any(sorted(o) != list(range(count)) for o in self.orders):
            raise ValueError(
                f'PCGrad has orders={self.orders}, expected {count} permutations of '
                f'0 to {count - 1} for {count} labelled tasks. Change orders of the '
                'rule in optim_wrapper.'
            )
        return self.orders
