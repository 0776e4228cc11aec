"""Depth-wise convolution with wide kernels, with cheaper gradients on CPUs.

oneDNN has a fast kernel for the gradient of depth-wise weights up to three columns wide
only: a 7x7 kernel costs 20 times as much as a 7x3 one. Columns of a kernel are
independent of each other, so the gradient of a wide one is that of its groups of three
columns. The gradient of a bias, a plain sum, is taken as such.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .capture import is_captured

_COLUMNS = 3


def depthwise_conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve each channel on its own, at stride 1 and the same size.

    Args:
        x: The map; channels-last in memory is fastest.
        weight: The kernels, odd in height and width.
        bias: One value per channel.

    Shape:
        - x, output: (B, C, H, W)
        - weight: (C, 1, kh, kw)
        - bias: (C,)
    """
    if _is_cheaper(x, weight):
        return _WideDepthwise.apply(x, weight, bias)
    return _convolve(x, weight, bias)


def _padding(weight: Tensor) -> tuple[int, int]:
    return weight.shape[2] // 2, weight.shape[3] // 2


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.conv2d(x, weight, bias, padding=_padding(weight), groups=len(weight))


def _is_cheaper(x: Tensor, weight: Tensor) -> bool:
    return (
        torch.is_grad_enabled()
        and weight.requires_grad
        and weight.shape[3] > _COLUMNS
        and x.shape[3] >= weight.shape[3]
        and x.device.type == 'cpu'
        and x.dtype == weight.dtype
        and x.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled('cpu')
        and not is_captured()
    )


class _WideDepthwise(torch.autograd.Function):
    """Its backward is made of differentiable steps: second gradients exist."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _convolve(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        x, weight, _ = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        for_x = for_weight = for_bias = None
        if ctx.needs_input_grad[0]:
            for_x = _backward(grad, x, weight, _padding(weight), of_input=True)
        if ctx.needs_input_grad[1]:
            for_weight = _weight_gradient(grad, x, weight)
        if ctx.needs_input_grad[2]:
            for_bias = grad.sum((0, 2, 3))
        return for_x, for_weight, for_bias


def _backward(
    grad: Tensor, x: Tensor, weight: Tensor, padding: tuple[int, int], of_input: bool
) -> Tensor:
    """One of the two gradients of a depth-wise convolution at stride 1."""
    # Not torch.nn.grad: its stand-ins lose the memory order, at 10 times the time.
    both = torch.ops.aten.convolution_backward(
        grad,
        x,
        weight,
        None,
        (1, 1),
        padding,
        (1, 1),
        False,
        (0, 0),
        len(weight),
        (of_input, not of_input, False),
    )
    return both[0] if of_input else both[1]


def _weight_gradient(grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Column j of the kernel meets the input shifted by j - kw // 2."""
    height, width = weight.shape[2:]
    parts = []
    for start in range(0, width, _COLUMNS):
        columns = weight[..., start : start + _COLUMNS]
        first = start - width // 2
        end = first + x.shape[3] + columns.shape[3] - 1
        moved = F.pad(
            x[..., max(first, 0) : min(end, x.shape[3])],
            (max(-first, 0), max(end - x.shape[3], 0)),
        )
        parts.append(_backward(grad, moved, columns, (height // 2, 0), of_input=False))
    return torch.cat(parts, 3)
