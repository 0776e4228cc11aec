"""IMTL-L: losses brought to one scale.

Paper: Liu et al., "Towards Impartial Multi-task Learning", ICLR 2021,
https://openreview.net/forum?id=IMPnRXEWpvr. Checked against LibMTL
(https://github.com/median-research-group/LibMTL, MIT), where it is one half of IMTL.
Clean room, nothing copied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mmseg_xmodal.registry import MODELS

from .base import LossBalancer, per_task


@MODELS.register_module()
class IMTLLoss(LossBalancer):
    """``exp(s_t) L_t - s_t`` with a learnable scale ``s_t`` per task.

    At its optimum every weighted loss is 1. The scales should not decay, see
    :class:`UncertaintyWeighting`. With the rule ``IMTLG`` in the optimiser wrapper this
    is IMTL.

    Args:
        tasks: Names of all tasks; the segmentor fills them in.
        init: Scale at the start, for all tasks or by task.

    Raises:
        ValueError: If ``init`` names an unknown task.
    """

    def __init__(
        self, tasks: Sequence[str], init: Mapping[str, float] | float = 0.0
    ) -> None:
        super().__init__(tasks)
        start = [float(value) for value in per_task(self, self.tasks, init, 0.0)]
        self.scales = nn.Parameter(torch.tensor(start))

    def weigh(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See :meth:`LossBalancer.forward`."""
        weights = torch.exp(self.scales.float())
        terms = {}
        self.last_weights = {}
        for i, task in enumerate(self.tasks):
            if task in losses:
                self.last_weights[task] = weights[i].detach()
                terms[task] = weights[i] * losses[task] - self.scales[i]
        return {task: terms[task] for task in losses}
