"""Dynamic weight average.

Paper: Liu, Johns, Davison, "End-to-End Multi-Task Learning with Attention", CVPR 2019,
https://arxiv.org/abs/1803.10704. Checked against LibMTL
(https://github.com/median-research-group/LibMTL, MIT). Clean room, nothing copied.

Difference: the paper compares epochs, here windows of a number of iterations, since
MMSegmentation trains by iterations. Means are taken over all ranks, and over the
batches that have labels for the task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mmseg_xmodal.registry import MODELS

from .base import LossBalancer


@MODELS.register_module()
class DynamicWeightAverage(LossBalancer):
    """A task whose loss fell less in the last window gets more weight.

    ``w = T softmax(r / temperature)``, ``r`` the mean loss of the last window divided
    by that of the window before. The weights are 1 during the first two windows; ``r``
    is 1 for a task without labels in one of the windows.

    Args:
        tasks: Names of all tasks; the segmentor fills them in.
        window: Length of a window in iterations.
        temperature: Softness of the softmax, above 0.

    Raises:
        ValueError: If ``window`` or ``temperature`` is out of its range.
    """

    weights: Tensor
    sums: Tensor
    counts: Tensor
    means: Tensor
    iteration: Tensor

    def __init__(
        self, tasks: Sequence[str], window: int = 1000, temperature: float = 2.0
    ) -> None:
        super().__init__(tasks)
        if window < 1 or not temperature > 0:
            raise ValueError(
                f'DynamicWeightAverage has window={window} and temperature='
                f'{temperature}, expected 1 or more iterations and a number above 0. '
                'Change them in balancer.'
            )
        self.window, self.temperature = window, temperature
        count = len(self.tasks)
        self.register_buffer('weights', torch.ones(count))
        self.register_buffer('sums', torch.zeros(count))
        self.register_buffer('counts', torch.zeros(count))
        # Of the last window and of the one before; NaN where there is none.
        self.register_buffer('means', torch.full((2, count), torch.nan))
        self.register_buffer('iteration', torch.zeros((), dtype=torch.int64))

    def weigh(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See :meth:`LossBalancer.forward`."""
        weights = self.weights.clone()
        if self.training:
            self._note(*self.over_ranks(losses, self.weights))
        return self.scale(losses, weights)

    def _note(self, means: Tensor, labelled: Tensor) -> None:
        """Add the losses to the window. No branch: nothing here waits for the GPU."""
        counted = labelled & means.isfinite()
        self.sums += torch.where(counted, means, 0.0)
        self.counts += counted
        self.iteration += 1
        ends = self.iteration % self.window == 0
        # 0 / 0 is the NaN of a window without labels.
        means = torch.stack([self.sums / self.counts, self.means[0]])
        ratio = means[0] / means[1]
        ratio = torch.where(ratio.isfinite(), ratio, 1.0)
        weights = len(self.tasks) * torch.softmax(ratio / self.temperature, 0)
        full = self.iteration >= 2 * self.window
        self.weights.copy_(torch.where(ends & full, weights, self.weights))
        self.means.copy_(torch.where(ends, means, self.means))
        self.sums.masked_fill_(ends, 0)
        self.counts.masked_fill_(ends, 0)
