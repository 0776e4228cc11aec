"""One strided convolution for several modalities, with a norm for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from .slices import is_plain
from .tokens import to_map, to_tokens


class SharedEmbed(nn.Module):
    """Embed modalities by one convolution, then a LayerNorm over the channels of each.

    A modality with one channel counts as that channel replicated.

    Args:
        in_channels: Input channels of the convolution.
        dim: Channels C.
        kernel: Side of the convolution; it pads by half of it.
        stride: Of the convolution.
        count: Number of modalities.
        eps: Of the norms.
    """

    def __init__(
        self,
        in_channels: int,
        dim: int,
        kernel: int,
        stride: int,
        count: int,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, kernel, stride, kernel // 2)
        self.norms = nn.ModuleList(nn.LayerNorm(dim, eps=eps) for _ in range(count))

    def forward(self, xs: Sequence[Tensor]) -> list[Tensor]:
        """Embed each modality.

        Shape:
            - xs: (B, in_channels or 1, H, W) each.
            - output: (B, C, ceil(H / stride), ceil(W / stride)) each.
        """
        maps = [self._convolve(x) for x in xs]
        return [
            to_map(norm(to_tokens(x)), (x.shape[2], x.shape[3]))
            for x, norm in zip(maps, self.norms, strict=True)
        ]

    def _convolve(self, x: Tensor) -> Tensor:
        conv = self.proj
        if x.shape[1] == conv.in_channels:
            return conv(x)
        if not is_plain(conv):
            return conv(x.expand(-1, conv.in_channels, -1, -1))
        # Equal channels need only the sum of their weights.
        weight = conv.weight.sum(1, keepdim=True)
        padding: Any = conv.padding
        return F.conv2d(x, weight, conv.bias, conv.stride, padding)
