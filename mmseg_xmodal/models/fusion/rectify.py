"""Feature rectify module (FRM) of CMX.

Paper: CMX, 2022, https://arxiv.org/abs/2203.04838. Official code:
https://github.com/huaaaliu/RGBX_Semantic_Segmentation (MIT).

Differences: both weights of one direction are added before they meet the map (the
published form multiplies the map twice); 1x1 convolutions act on tokens; a validity per
stream is understood. The numbers are those of the published form.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmseg_xmodal.registry import MODELS

from ..layers.initialisation import segformer_init
from ..layers.tokens import to_map, to_tokens
from .pairwise import check_two, partners


class _MLP(nn.Module):
    """Holds the two layers of the channel or spatial branch under published keys."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.mlp: Any = nn.Sequential(first, nn.ReLU(), second, nn.Sigmoid())


@MODELS.register_module()
class FeatureRectifyModule(nn.Module):
    """Each stream adds what the other one says, weighted by channel and by place.

    With streams r and x, channel weights c and spatial weights s (both in (0, 1),
    computed from both streams)::

        r' = r + ratio * (c_r + s_r) * x        x' = x + ratio * (c_x + s_x) * r

    Where a stream is invalid it counts as zero for its partner and for the weights.

    Args:
        channels: Channels C of both streams.
        reduction: Divides the hidden widths of both branches.
        ratio: Weight of each branch (the paper's lambda, 0.5 each).
    """

    def __init__(self, channels: int, reduction: int = 1, ratio: float = 0.5) -> None:
        super().__init__()
        self.channels = channels
        self.ratio = ratio
        self.channel_weights = _MLP(
            nn.Linear(4 * channels, 4 * channels // reduction),
            nn.Linear(4 * channels // reduction, 2 * channels),
        )
        self.spatial_weights = _MLP(
            nn.Conv2d(2 * channels, channels // reduction, 1),
            nn.Conv2d(channels // reduction, 2, 1),
        )
        segformer_init(self)

    def _spatial(self, tokens: Tensor) -> Tensor:
        first, _, second, _ = self.spatial_weights.mlp
        hidden = F.linear(tokens, first.weight.flatten(1), first.bias)
        out = F.linear(F.relu(hidden), second.weight.flatten(1), second.bias)
        return out.sigmoid()

    def forward(
        self, feats: list[Tensor], valid: list[Tensor] | None = None
    ) -> tuple[list[Tensor], Tensor]:
        """Rectify both streams.

        Returns:
            The rectified streams, and their mean.

        Shape:
            - feats: two maps (B, C, h, w).
            - valid: two maps (B, 1, h, w) in [0, 1], or None.
            - output: two maps (B, C, h, w), and one.

        Raises:
            ValueError: If there are not two streams.
        """
        check_two(self, len(feats))
        size = (feats[0].shape[2], feats[0].shape[3])
        seen = [to_tokens(p) for p in partners(feats, valid)]
        both = torch.cat(seen, 2)
        pooled = torch.cat([both.mean(1), both.amax(1)], 1)
        by_channel = self.channel_weights.mlp(pooled).unsqueeze(1)
        for_x, for_r = by_channel.split(self.channels, 2)
        by_place = self._spatial(both)
        r, x = (to_tokens(f) for f in feats)
        weight_r = self.ratio * (for_r + by_place[..., 1:])
        weight_x = self.ratio * (for_x + by_place[..., :1])
        streams = [
            to_map(torch.addcmul(r, weight_r, seen[1]), size),
            to_map(torch.addcmul(x, weight_x, seen[0]), size),
        ]
        return streams, (streams[0] + streams[1]) / 2
