"""Focal loss of a heatmap whose positives are single cells."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmseg_xmodal.registry import MODELS


@MODELS.register_module()
class HeatmapFocalLoss(nn.Module):
    """Focal loss that forgives what is predicted close to a centre.

    With p the probability and Y the drawn value, a cell costs -(1 - p)^alpha log p
    where Y = 1, and -(1 - Y)^beta p^alpha log(1 - p) elsewhere; the sum over the batch
    is divided by the number of cells with Y = 1, at least 1.

    Source: CenterNet, 2019, https://arxiv.org/abs/1904.07850 (official code MIT), after
    CornerNet. Clean room, nothing copied. It is computed from logits, so that no
    probability needs to be kept away from 0 and 1.

    Args:
        alpha: Exponent that takes weight off what is predicted well, >= 0.
        beta: Exponent that takes weight off the surroundings of a centre, >= 0.
        loss_weight: Factor on the result.
        loss_name: Its name in the log; must contain ``'loss'`` to be trained on.

    Shape:
        - pred: (B, C, H, W), logits
        - target: (B, C, H, W), in [0, 1]
        - ignored: (B, 1, H, W) bool: cells that count only where Y = 1
        - output: ()
    """

    def __init__(
        self,
        alpha: float = 2.0,
        beta: float = 4.0,
        loss_weight: float = 1.0,
        loss_name: str = 'loss_heatmap',
    ) -> None:
        super().__init__()
        self.alpha = alpha
        self.beta = beta
        self.loss_weight = loss_weight
        self.loss_name = loss_name

    def forward(
        self, pred: Tensor, target: Tensor, ignored: Tensor | None = None
    ) -> Tensor:
        """Return the loss, in single precision at least."""
        pred = pred.to(torch.promote_types(pred.dtype, torch.float32))
        centre = target == 1
        p = pred.sigmoid()
        positive = -((1 - p) ** self.alpha) * F.logsigmoid(pred)
        away = (1 - target) ** self.beta
        if ignored is not None:
            away = away.masked_fill(ignored, 0)
        negative = -away * p**self.alpha * F.logsigmoid(-pred)
        total = torch.where(centre, positive, negative).sum()
        return self.loss_weight * total / centre.sum().clamp(min=1)
