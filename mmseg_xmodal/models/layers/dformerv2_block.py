"""Parts of DFormerv2: stem, downsampling, FFN and the block.

Paper: DFormerv2: Geometry Self-Attention for RGBD Semantic Segmentation, 2025,
https://arxiv.org/abs/2504.04701. Official code: https://github.com/VCIP-RGBD/DFormer
(LICENSE says MIT, the README "non-commercial use only"). Written from a description,
nothing is copied.

Differences, none of which changes a number: ``x + DW(x)`` is one depth-wise
convolution, layer scales are part of the matrix before them, BN is folded in eval mode,
and wide hidden maps are taken in slices at inference.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .depthwise import residual_depthwise, residual_kernel
from .drop_path import DropPath
from .geometry_attention import Geometry, GeometryAttention, scaled_linear
from .resize_linear import fold_norm, is_foldable
from .slices import inference_slices, is_plain
from .tokens import to_map, to_tokens


def _conv_norm(conv: Any, norm: Any, x: Tensor) -> Tensor:
    """Convolution and BN, as one where BN is a fixed map."""
    if not is_foldable(norm, None) or not is_plain(conv):
        return norm(conv(x))
    (weight,), bias = fold_norm([conv.weight.flatten(1)], conv.bias, norm)
    return F.conv2d(x, weight.view_as(conv.weight), bias, conv.stride, conv.padding)


class Stem(nn.Module):
    """Four convolutions with BN, GELU between them; a quarter of the size.

    Shape:
        - input: (B, in_channels, H, W)
        - output: (B, dim, ceil(H / 4), ceil(W / 4))
    """

    def __init__(self, in_channels: int, dim: int) -> None:
        super().__init__()
        widths = (in_channels, dim // 2, dim // 2, dim, dim)
        self.convs = nn.ModuleList(
            nn.Conv2d(widths[i], widths[i + 1], 3, 2 - i % 2, 1) for i in range(4)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths[1:])

    def forward(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = _conv_norm(conv, norm, x if i == 0 else F.gelu(x))
        return x


class Downsample(nn.Module):
    """Strided convolution and BN; half the size."""

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, out_dim, 3, 2, 1)
        self.norm = nn.BatchNorm2d(out_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, dim, H, W) to (B, out_dim, ceil(H / 2), ceil(W / 2))."""
        return _conv_norm(self.conv, self.norm, x)


class FFN(nn.Module):
    """Linear, GELU, depth-wise 3x3 convolution with a residual, linear."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor, size: tuple[int, int], gamma: Tensor | None) -> Tensor:
        """(B, N, C) to (B, N, C), scaled by gamma."""
        if is_plain(self.fc1, self.dwconv, self.fc2):
            slices = inference_slices(x, self.fc1.out_features, x[..., 0].numel())
            if len(slices) > 1:
                return self._in_slices(x, size, gamma, slices)
        x = residual_depthwise(self.dwconv, to_map(F.gelu(self.fc1(x)), size))
        return scaled_linear(self.fc2, to_tokens(x), gamma)

    def _in_slices(
        self,
        x: Tensor,
        size: tuple[int, int],
        gamma: Tensor | None,
        slices: list[slice],
    ) -> Tensor:
        """The same: hidden channels meet only in the sum of ``fc2``."""
        tokens = x.flatten(0, 1)
        weight: Tensor = self.fc2.weight
        bias: Tensor = self.fc2.bias
        if gamma is not None:
            weight, bias = gamma[:, None] * weight, gamma * bias
        out = bias.expand(len(tokens), -1).clone()
        kernel, shift = residual_kernel(self.dwconv.weight), self.dwconv.bias
        assert shift is not None
        for part in slices:
            hidden = torch.addmm(
                self.fc1.bias[part], tokens, self.fc1.weight[part].t()
            ).view(*x.shape[:2], -1)
            hidden = to_map(torch.ops.aten.gelu_(hidden), size)
            hidden = F.conv2d(
                hidden, kernel[part], shift[part], padding=1, groups=hidden.shape[1]
            )
            out.addmm_(to_tokens(hidden).flatten(0, 1), weight[:, part].t())
        return out.view(x.shape)


class Block(nn.Module):
    """Convolutional positions, geometry attention and FFN, each with a residual.

    Args:
        dim: Channels.
        heads: Attention heads.
        decay_range: How far the decays of the heads are apart.
        mlp_ratio: Hidden channels of the FFN per channel.
        layer_scale: Whether a factor per channel (at first 1e-6) scales the branches.
        drop_path: Rate.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        decay_range: float,
        mlp_ratio: int,
        layer_scale: bool,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.pos = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = GeometryAttention(dim, heads, decay_range)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.ffn = FFN(dim, mlp_ratio * dim)
        self.drop_path = DropPath(drop_path)
        self.gamma1 = nn.Parameter(torch.full((dim,), 1e-6)) if layer_scale else None
        self.gamma2 = nn.Parameter(torch.full((dim,), 1e-6)) if layer_scale else None

    def forward(self, x: Tensor, geometry: Geometry) -> Tensor:
        """(B, C, H, W) to (B, C, H, W), channels-last in memory."""
        x = to_tokens(residual_depthwise(self.pos, x))
        x = x + self.drop_path(self.attn(self.norm1(x), geometry, self.gamma1))
        y = self.ffn(self.norm2(x), geometry.size, self.gamma2)
        return to_map(x + self.drop_path(y), geometry.size)
