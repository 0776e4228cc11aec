"""A light decoder from a pyramid to one map, for task heads beside a shared backbone.

Each level is mapped linearly at its own size, the results are upsampled and added (a
1x1 convolution commutes with bilinear upsampling, see :mod:`.resize_linear`), and what
follows works with few channels. So a further task costs a fraction of a segmentation
decoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from torch import Tensor, nn

from .initialisation import segformer_init
from .resize_linear import fold_norm, is_foldable, pointwise, sum_of_levels
from .slices import is_plain


class LevelDecoder(nn.Module):
    """Linear maps per level, their sum, norm, ReLU, and a linear map to the output.

    Args:
        in_channels: Channels of the levels.
        out_channels: Channels of the output.
        channels: E, the width inside.
        refine: Whether a 3x3 depth-wise and a 1x1 convolution, norm and ReLU follow the
            sum: neighbouring places see each other at full resolution.
        norm_cfg: Norm layers; None = BN.
        align_corners: As in ``F.interpolate``.

    Shape:
        - input: maps (B, in_channels[i], h_i, w_i), the largest first.
        - output: (B, out_channels, h_0, w_0)
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        channels: int = 64,
        refine: bool = True,
        norm_cfg: dict | None = None,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        norm_cfg = norm_cfg or dict(type='BN')
        self.align_corners = align_corners
        self.levels = nn.ModuleList(
            nn.Conv2d(width, channels, 1, bias=False) for width in in_channels
        )
        self.norm = build_norm_layer(norm_cfg, channels)[1]
        self.refine = _Refine(channels, norm_cfg) if refine else None
        self.classifier = nn.Conv2d(channels, out_channels, 1)
        segformer_init(self)
        # That rule is meant for many outputs: a map of one channel would start with
        # values of several units, exp() of which is no depth.
        nn.init.normal_(self.classifier.weight, std=0.01)

    def forward(self, feats: Sequence[Tensor]) -> Tensor:
        """Return the map at the size of the first level."""
        x = F.relu(self._sum(feats))
        if self.refine is not None:
            x = self.refine(x)
        return pointwise(self.classifier, x).contiguous()

    def _sum(self, feats: Sequence[Tensor]) -> Tensor:
        """The normalised sum of the levels, (B, E, h_0, w_0)."""
        convs: list[Any] = list(self.levels)
        if not is_plain(*convs):
            return self.norm(self._plain_sum(feats))
        weights = [conv.weight.flatten(1) for conv in convs]
        if not self.training and is_foldable(self.norm, None):
            weights, bias = fold_norm(weights, None, self.norm)
            return sum_of_levels(feats, weights, bias, self.align_corners)
        return self.norm(sum_of_levels(feats, weights, None, self.align_corners))

    def _plain_sum(self, feats: Sequence[Tensor]) -> Tensor:
        """The same for convolutions that are more than their weights (LoRA)."""
        total = self.levels[0](feats[0])
        size = (total.shape[2], total.shape[3])
        for conv, feat in zip(self.levels[1:], feats[1:], strict=True):
            total = total + F.interpolate(
                conv(feat), size, mode='bilinear', align_corners=self.align_corners
            )
        return total


class _Refine(nn.Module):
    """3x3 depth-wise, 1x1, norm, ReLU; (B, C, h, w) to (B, C, h, w)."""

    def __init__(self, channels: int, norm_cfg: dict) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(
            channels, channels, 3, padding=1, groups=channels, bias=False
        )
        self.pointwise = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm = build_norm_layer(norm_cfg, channels)[1]

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(pointwise(self.pointwise, self.depthwise(x))))
