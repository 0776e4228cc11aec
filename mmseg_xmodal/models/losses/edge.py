"""Binary cross entropy for edges, of which there are few."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmseg_xmodal.registry import MODELS


@MODELS.register_module()
class BalancedBCELoss(nn.Module):
    """Binary cross entropy whose two classes weigh differently.

    With ``pos_weight`` = w, edges count w and other pixels 1 - w, and the mean goes
    over all labelled pixels of the batch: 0.95 is the convention of the published
    multi-task codes. With None, each image has weights of its own, as in HED: w is its
    share of pixels that are no edge, and the loss is the mean over the labelled pixels
    of the image, then over the images that have any. (HED adds up where we take the
    mean, so that the loss does not depend on the size of the crop.)

    Source: HED, 2015, https://arxiv.org/abs/1504.06375. Clean room, nothing copied.

    Args:
        pos_weight: w, in (0, 1), or None for the balance of each image. An image
            without an edge then adds nothing.
        ignore_index: Value of a pixel that is not labelled.
        loss_weight: Factor on the result.
        loss_name: Its name in the log; must contain ``'loss'`` to be trained on.

    Shape:
        - pred: (B, 1, H, W), logits
        - target: (B, 1, H, W), 0, 1 or ``ignore_index``
        - output: ()

    Raises:
        ValueError: If ``pos_weight`` lies outside of its range.
    """

    def __init__(
        self,
        pos_weight: float | None = 0.95,
        ignore_index: int = 255,
        loss_weight: float = 1.0,
        loss_name: str = 'loss_edge',
    ) -> None:
        super().__init__()
        if pos_weight is not None and not 0 < pos_weight < 1:
            raise ValueError(
                f'BalancedBCELoss has pos_weight={pos_weight}, expected a number in '
                '(0, 1), or None for the balance of each image. Change it in '
                'loss_decode.'
            )
        self.pos_weight = pos_weight
        self.ignore_index = ignore_index
        self.loss_weight = loss_weight
        self.loss_name = loss_name

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return the loss."""
        valid = (target != self.ignore_index).flatten(1)
        score = pred.flatten(1)
        edge = torch.where(valid, target.flatten(1).to(score), 0)
        losses = F.binary_cross_entropy_with_logits(score, edge, reduction='none')
        count = valid.sum(1, keepdim=True)
        if self.pos_weight is None:
            share = 1 - edge.sum(1, keepdim=True) / count.clamp(min=1)
            scale = count.clamp(min=1) * (count > 0).sum().clamp(min=1)
        else:
            share = edge.new_full((1, 1), self.pos_weight)
            scale = count.sum().clamp(min=1)
        weight = torch.where(valid, edge * share + (1 - edge) * (1 - share), 0)
        return self.loss_weight * (weight * losses / scale).sum()
