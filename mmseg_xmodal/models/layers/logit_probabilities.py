"""From the logits of a segmentation head to probabilities of every class."""

from __future__ import annotations

import torch
from torch import Tensor


def logit_probabilities(logits: Tensor) -> Tensor:
    """Softmax over the classes; one channel is the sigmoid of the second of two.

    Args:
        logits: Of the classes, or of the one channel of a binary head.

    Shape:
        - logits: (B, C, H, W)
        - output: (B, C, H, W), (B, 2, H, W) for C = 1; float32, sums to 1
    """
    logits = logits.float()
    if logits.shape[1] == 1:
        second = logits.sigmoid()
        return torch.cat([1 - second, second], dim=1)
    return logits.softmax(dim=1)
