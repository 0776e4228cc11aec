"""Fusion by the mean, for any number of streams."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmseg_xmodal.registry import MODELS


@MODELS.register_module()
class MeanFusion(nn.Module):
    """Mean over the streams, weighted by their validity; has no parameters.

    A place where no stream is valid takes the plain mean: there the streams still know
    their surroundings.

    Args:
        channels: Ignored; every fusion module is built with it.
    """

    def __init__(self, channels: int | None = None) -> None:
        super().__init__()

    def forward(
        self, feats: list[Tensor], valid: list[Tensor] | None = None
    ) -> tuple[list[Tensor], Tensor]:
        """Fuse; the streams go on as they are.

        Shape:
            - feats: maps (B, C, h, w).
            - valid: maps (B, 1, h, w) in [0, 1], or None.
            - output: ``feats``, and (B, C, h, w).
        """
        if valid is None:
            return list(feats), torch.stack(tuple(feats)).sum(0) / len(feats)
        weights = torch.stack(tuple(valid))
        weights = torch.where(weights.sum(0) > 0, weights, torch.ones_like(weights))
        total = (torch.stack(tuple(feats)) * weights).sum(0)
        return list(feats), total / weights.sum(0)
