"""The parallel pooling mixer (PPX) block of CMNeXt, with its MSPA attention.

Paper: CMNeXt (DELIVER), 2023, https://arxiv.org/abs/2303.01480. Official code:
https://github.com/jamycheung/DELIVER (Apache-2.0, with the line "for commercial use
contact the authors" in its README).

Differences, none of which changes a number: maps are channels-last throughout; the
three average pools are separable sums whose gradient is of the same form, so nothing
is kept for it; the second layer scale is part of the last 1x1 convolution, and in eval
mode the second BN part of the first one; inference takes wide hidden maps in slices.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from torch import Tensor, nn

from .capture import is_captured
from .drop_path import DropPath
from .resize_linear import is_foldable, pointwise
from .slices import inference_slices, is_plain
from .tokens import to_map, to_tokens

_WINDOWS = (3, 7, 11)
_MAPPED = 1 << 23  # elements: 32 MiB of float32
_TRAINING = 5 << 19  # elements of a slice: fastest from 1.2 to 5 million


def _box(x: Tensor, window: int) -> Tensor:
    """Sum over a square window, zero outside the map."""
    channels, half = x.shape[1], window // 2
    row = x.new_ones(channels, 1, 1, window)
    x = F.conv2d(x, row, padding=(0, half), groups=channels)
    return F.conv2d(x, row.transpose(2, 3), padding=(half, 0), groups=channels)


def _one_over_count(x: Tensor, window: int) -> Tensor:
    """One over the places of each window that lie in the map: (H, W)."""
    sides = []
    for length in x.shape[2:]:
        place = torch.arange(length, device=x.device)
        first = (place - window // 2).clamp(min=0)
        last = (place + window // 2).clamp(max=length - 1)
        sides.append((last - first + 1).to(x.dtype).reciprocal())
    return sides[0][:, None] * sides[1]


class _MeanPools(torch.autograd.Function):
    """The sum of the map and its means over three windows, or the adjoint of that.

    Both are the same box sums, with the division after or before them.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, adjoint: bool) -> Tensor:
        ctx.adjoint = adjoint
        # Sums of 121 values lose too much in half precision.
        with torch.autocast(x.device.type, enabled=False):
            wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
            # Gradients of a batch of one have strides that convolutions take for the
            # usual memory order.
            wide = to_map(to_tokens(wide), (x.shape[2], x.shape[3]))
            out = wide
            for window in _WINDOWS:
                weight = _one_over_count(wide, window)
                if adjoint:
                    out = out + _box(wide * weight, window)
                elif out is wide:
                    out = torch.addcmul(out, _box(wide, window), weight)
                else:
                    out.addcmul_(_box(wide, window), weight)
            return out.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _MeanPools.apply(grads[0], not ctx.adjoint), None


def add_mean_pools(x: Tensor) -> Tensor:
    """Add to a map its means over windows of 3, 7 and 11 places per side.

    A window that reaches over the border counts only the places inside.

    Shape:
        - x: (B, C, H, W)
        - output: as ``x``
    """
    if is_captured():
        # A captured graph must serve other sizes too: keep torch's own pools.
        pools = [
            F.avg_pool2d(x, w, 1, w // 2, count_include_pad=False) for w in _WINDOWS
        ]
        return x + pools[0] + pools[1] + pools[2]
    return _MeanPools.apply(x, False)


class MSPA(nn.Module):
    """Multi-scale pooling attention: a gate from a wide depth-wise neighbourhood.

    Args:
        channels: Channels C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.conv4 = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``gate * x + x``.

        Shape:
            - x: (B, C, H, W)
            - output: as ``x``
        """
        gate = pointwise(self.conv4, add_mean_pools(self.conv0(x)))
        gate = gate.sigmoid() if torch.is_grad_enabled() else gate.sigmoid_()
        return torch.addcmul(x, x, gate)


class ConvMLP(nn.Module):
    """1x1 convolution, depth-wise 3x3 convolution, GELU, 1x1 convolution.

    Args:
        channels: Channels C.
        hidden: Hidden channels.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    @property
    def is_plain(self) -> bool:
        """Whether the weights are all there is to the layers."""
        return is_plain(self.fc1, self.dwconv, self.fc2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H, W)."""
        return self.fc2(F.gelu(self.dwconv(self.fc1(x))))

    def scaled(self, x: Tensor, norm: nn.Module, scale: Tensor) -> Tensor:
        """``scale * self(norm(x))`` with scale and, where fixed, norm in the weights.

        The hidden channels meet only in the last sum, so they are taken in slices
        where a whole map of them is slow.

        Args:
            x: The map.
            norm: A norm layer of C channels.
            scale: One factor per channel.

        Shape:
            - x, output: (B, C, H, W)
            - scale: (C,)
        """
        first: Any = self.fc1.weight.flatten(1)
        bias: Any = self.fc1.bias
        if is_foldable(norm, None) and not norm._forward_hooks:
            first, bias = _fold_norm_before(first, bias, norm)
        else:
            x = norm(x)
        second = scale[:, None] * self.fc2.weight.flatten(1)
        last: Any = self.fc2.bias
        shift = scale * last
        size = (x.shape[2], x.shape[3])
        out = None
        tokens = to_tokens(x)
        for part in _slices(x, len(first)):
            hidden = to_map(F.linear(tokens, first[part], bias[part]), size)
            hidden = _gelu(self._depthwise(hidden, part))
            out = _add_product(out, to_tokens(hidden), second[:, part], shift)
        assert out is not None
        return to_map(out.view(tokens.shape), size)

    def _depthwise(self, x: Tensor, part: slice) -> Tensor:
        """Convolve some of the hidden channels."""
        conv: Any = self.dwconv
        weight = conv.weight[part]
        return F.conv2d(x, weight, conv.bias[part], padding=1, groups=len(weight))


def _slices(x: Tensor, hidden: int) -> list[slice]:
    """Divide the hidden channels, in training only those of very large maps.

    There memory is kept for the gradient anyway, but a map above 32 MiB is mapped anew
    at every use (the largest threshold of glibc), page by page.
    """
    places = x[:, 0].numel()
    plain = not (torch.is_autocast_enabled('cpu') or is_captured())
    on_cpu = x.device.type == 'cpu' and x.dtype == torch.float32
    if not torch.is_grad_enabled() or not plain or not on_cpu:
        return inference_slices(x, hidden, places)
    if hidden * places <= _MAPPED:
        return [slice(0, hidden)]
    width = max(_TRAINING * hidden // (hidden * places) // 32 * 32, 32)
    return [slice(i, min(i + width, hidden)) for i in range(0, hidden, width)]


def _gelu(x: Tensor) -> Tensor:
    return F.gelu(x) if torch.is_grad_enabled() else torch.ops.aten.gelu_(x)


def _add_product(
    total: Tensor | None, x: Tensor, weight: Tensor, bias: Tensor
) -> Tensor:
    """Add a linear map of tokens to the sum so far; the first one brings the bias.

    Shape:
        - total, output: (B * N, C), or None
        - x: (B, N, width)
        - weight: (C, width); bias: (C,)
    """
    x = x.flatten(0, 1)
    if total is None:
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled():
        return torch.addmm(total, x, weight.t())
    return total.addmm_(x, weight.t())


def _fold_norm_before(weight: Tensor, bias: Any, norm: Any) -> tuple[Tensor, Tensor]:
    """Fold a BN in eval mode into the linear map that follows it."""
    scale = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -norm.running_mean * scale
    if norm.bias is not None:
        shift = shift + norm.bias
    return weight * scale, bias + weight @ shift


class PPXBlock(nn.Module):
    """Pooling attention, then an MLP whose residual passes a channel gate.

    With a = MSPA(BN(x))::

        y = x + scale_1 * a;  out = gate(y) * y + scale_2 * MLP(BN(y))

    Args:
        channels: Channels C.
        mlp_ratio: Hidden channels of the MLP per channel.
        drop_path: Rate of both branches.
        norm_cfg: Norm layers; None = BN.
        init_scale: Both layer scales start with it.
    """

    def __init__(
        self,
        channels: int,
        mlp_ratio: int = 4,
        drop_path: float = 0.0,
        norm_cfg: dict | None = None,
        init_scale: float = 1e-2,
    ) -> None:
        super().__init__()
        norm_cfg = norm_cfg or dict(type='BN')
        self.norm1 = build_norm_layer(norm_cfg, channels)[1]
        self.attn = MSPA(channels)
        self.norm2 = build_norm_layer(norm_cfg, channels)[1]
        self.mlp = ConvMLP(channels, mlp_ratio * channels)
        self.eca = nn.Conv1d(1, 1, 3, padding=1, bias=False)
        self.layer_scale_1 = nn.Parameter(torch.full((channels,), init_scale))
        self.layer_scale_2 = nn.Parameter(torch.full((channels,), init_scale))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H, W)."""
        attended = self.attn(self.norm1(x))
        # The dropped samples are dropped by their scale: one pass less.
        scale = self.drop_path(self.layer_scale_1.repeat(len(x), 1))
        x = torch.addcmul(x, scale[..., None, None], attended)
        gate = self.eca(to_tokens(x).mean(1, keepdim=True)).sigmoid()
        gate = gate.transpose(1, 2).unsqueeze(3)
        if self.mlp.is_plain:
            out = self.mlp.scaled(x, self.norm2, self.layer_scale_2)
        else:
            out = self.mlp(self.norm2(x)) * self.layer_scale_2[:, None, None]
        return torch.addcmul(self.drop_path(out), gate, x)
