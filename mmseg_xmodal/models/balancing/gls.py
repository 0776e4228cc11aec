"""Geometric mean of the losses.

Paper: Chennupati et al., "MultiNet++: Multi-Stream Feature Aggregation and Geometric
Loss Strategy for Multi-Task Learning", CVPR workshops 2019,
https://arxiv.org/abs/1904.08492. Clean room, nothing copied.

Difference: the mean is that of the losses of all ranks, over the tasks that are
labelled there, and leaves out losses of 0.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mmseg_xmodal.registry import MODELS

from .base import LossBalancer


@MODELS.register_module()
class GeometricMeanLoss(LossBalancer):
    """``(L_1 ... L_T)^(1/T)``, which does not depend on the scales of the losses.

    Every task gets the share ``w_t L_t`` with the constant ``w_t = mean / (T L_t)``:
    the shares add up to the mean, and their gradients to its gradient. A loss that is
    not above 0 (every pixel is ignored) takes no part in the mean and gets the weight
    0: it would take all others to 0.

    Args:
        tasks: Names of all tasks; the segmentor fills them in.
    """

    def weigh(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See :meth:`LossBalancer.forward`."""
        like = next(iter(losses.values()), torch.zeros(()))
        values, labelled = self.over_ranks(losses, like)
        counted = labelled & (values > 0)
        number = counted.sum().clamp(min=1)
        # Logarithms: a product of many losses under- or overflows.
        logs = torch.where(counted, values, 1.0).log()
        weights = torch.exp(logs.sum() / number - logs) / number
        return self.scale(losses, torch.where(counted, weights, 0.0))
