"""The angle between surface normals."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmseg_xmodal.registry import MODELS


@MODELS.register_module()
class NormalCosineLoss(nn.Module):
    """Mean of 1 - cos of the angle between two directions, in [0, 2].

    The mean goes over all pixels of the batch whose truth is a direction: no component
    is NaN, and not all are 0 (what stock transforms fill borders with).

    Args:
        loss_weight: Factor on the result.
        loss_name: Its name in the log; must contain ``'loss'`` to be trained on.

    Shape:
        - pred: (B, 3, H, W), unit vectors
        - target: (B, 3, H, W), of any length; NaN = unknown
        - output: ()
    """

    def __init__(
        self, loss_weight: float = 1.0, loss_name: str = 'loss_cosine'
    ) -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.loss_name = loss_name

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return the loss."""
        valid = torch.isfinite(target).all(1) & (target != 0).any(1)
        known = F.normalize(torch.where(valid[:, None], target, 0), dim=1)
        distance = 1 - (pred * known).sum(1)
        total = torch.where(valid, distance, 0).sum()
        return self.loss_weight * total / valid.sum().clamp(min=1)
