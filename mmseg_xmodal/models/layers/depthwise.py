"""Depth-wise convolutions of DFormerv2: with a residual, and 5x5.

See :mod:`.wide_depthwise` for what makes their gradients cheaper on CPUs.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .slices import is_plain
from .wide_depthwise import depthwise_conv


def residual_kernel(weight: Tensor) -> Tensor:
    """Kernels of ``x + DW(x)``: 1 more in the centre.

    Shape:
        - weight, output: (C, 1, kh, kw), odd kh and kw
    """
    height, width = weight.shape[2] // 2, weight.shape[3] // 2
    one = weight.new_ones(1, 1, 1, 1)
    return weight + F.pad(one, (width, width, height, height))


def residual_depthwise(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """``x + conv(x)`` in one convolution; (B, C, H, W) to (B, C, H, W)."""
    if not is_plain(conv):
        return x + conv(x)
    return depthwise_conv(x, residual_kernel(conv.weight), conv.bias)


def depthwise_5x5(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """``conv(x)``; (B, C, H, W) to (B, C, H, W)."""
    if not is_plain(conv):
        return conv(x)
    return depthwise_conv(x, conv.weight, conv.bias)
