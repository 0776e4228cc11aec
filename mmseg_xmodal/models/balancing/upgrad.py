"""UPGrad: unconflicting projection of gradients.

Paper: Quinton and Rey, "Jacobian Descent for Multi-Objective Optimization", 2024,
https://arxiv.org/abs/2406.16232; official code TorchJD
(https://github.com/SimplexLab/TorchJD, MIT). Clean room, nothing copied.

Difference: TorchJD adds a small multiple of the identity to the Gram matrix and hands
the programs to a general solver; here they are solved exactly, on the cosines.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmseg_xmodal.registry import MODELS

from .base import GradientRule, unit_gram
from .solvers import solve_nonnegative


@MODELS.register_module()
class UPGrad(GradientRule):
    """Mean of the gradients, each projected to where no loss rises.

    The dual cone holds the vectors with a non-negative product with every gradient. The
    projection of ``g_i`` on it is ``g_i + sum_j x_j g_j`` with the ``x >= 0`` that
    makes it shortest.

    Args:
        tasks: Names of all tasks. Defaults to those of the first update.
    """

    def forward(
        self, gram: Tensor, losses: Tensor, tasks: Sequence[str] | None = None
    ) -> Tensor:
        """See :meth:`GradientRule.forward`."""
        # In unit vectors the program does not know how much the lengths differ.
        norms, cosines = unit_gram(gram)
        added = torch.stack([solve_nonnegative(cosines, row) for row in cosines])
        safe = torch.where(norms > 0, norms, 1.0)
        return (1 + norms @ added / safe) / len(norms)
