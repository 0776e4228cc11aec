"""The plain sum of the task gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmseg_xmodal.registry import MODELS

from .base import GradientRule


@MODELS.register_module()
class SumRule(GradientRule):
    """All weights 1: ordinary training, bit for bit.

    With it the optimiser wrapper computes the gradients of the tasks only in the
    iterations that ``mmseg_xmodal.TaskBalanceHook`` logs, so that conflicts can be
    watched without a rule against them.

    Args:
        tasks: Names of all tasks. Defaults to those of the first update.
    """

    needs_gram = False

    def forward(
        self, gram: Tensor, losses: Tensor, tasks: Sequence[str] | None = None
    ) -> Tensor:
        """See :meth:`GradientRule.forward`."""
        return torch.ones(len(losses), dtype=torch.float64)
