"""Fixed loss weights, the balancing that needs nothing.

With well chosen weights it keeps up with the specialised methods (arXiv 2505.10347,
2025, https://arxiv.org/abs/2505.10347).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mmseg_xmodal.registry import MODELS

from .base import LossBalancer, per_task


@MODELS.register_module()
class FixedWeights(LossBalancer):
    """One constant per task.

    Args:
        tasks: Names of all tasks; the segmentor fills them in.
        weights: Weight by task; tasks that are not named have 1.

    Raises:
        ValueError: If a weight is negative or not finite, or a task is unknown.
    """

    weights: Tensor

    def __init__(
        self, tasks: Sequence[str], weights: Mapping[str, float] | None = None
    ) -> None:
        super().__init__(tasks)
        values = [float(w) for w in per_task(self, self.tasks, weights or {}, 1.0)]
        if not all(math.isfinite(w) and w >= 0 for w in values):
            raise ValueError(
                f'FixedWeights has weights={weights}, expected finite numbers of 0 or '
                'more. Change them in balancer.'
            )
        # They belong to the config, not to the checkpoint.
        self.register_buffer('weights', torch.tensor(values), persistent=False)

    def weigh(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See :meth:`LossBalancer.forward`."""
        return self.scale(losses, self.weights)
