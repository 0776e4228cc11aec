"""The block of DFormer: two kinds of attention, a gate, convolutional MLPs.

Paper: DFormer, 2024, https://arxiv.org/abs/2309.09668; see
:mod:`mmseg_xmodal.models.backbones.dformer` for what differs from the official code.

Everything runs on NHWC tensors: linear layers and LayerNorm take them as they are, and
their NCHW view is channels-last in memory, so that convolutions copy nothing.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .depthwise import residual_kernel
from .drop_path import DropPath
from .slices import inference_slices, is_plain
from .wide_depthwise import depthwise_conv

_EPS = 1e-6


def _nchw(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)


def _nhwc(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)


def _may_fold(*layers: Any) -> bool:
    """Whether weights may be multiplied before they are used.

    Not in float16: a layer scale of 1e-6 times a weight would be zero there.
    """
    device = layers[0].weight.device.type
    half = layers[0].weight.dtype == torch.float16 or (
        torch.is_autocast_enabled(device)
        and torch.get_autocast_dtype(device) == torch.float16
    )
    return is_plain(*layers) and not half


class ConvMLP(nn.Module):
    """LayerNorm, linear, depth-wise 3x3 convolution as a residual, GELU, linear.

    Args:
        dim: Channels.
        hidden: Channels between the linear layers.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=_EPS)
        self.fc1 = nn.Linear(dim, hidden)
        self.pos = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        """Return ``scale * mlp(x)``.

        Shape:
            - x: (B, H, W, dim)
            - scale: (dim,)
            - output: as ``x``
        """
        x = self.norm(x)
        if not _may_fold(self.fc1, self.pos, self.fc2):
            hidden = self.fc1(x)
            hidden = F.gelu(hidden + _nhwc(self.pos(_nchw(hidden))))
            return scale * self.fc2(hidden)
        kernel = residual_kernel(self.pos.weight)
        shift: Any = self.pos.bias
        weight, bias = self.fc2.weight * scale[:, None], self.fc2.bias * scale
        # Hidden channels meet only in the sum of fc2. Slices of them that stay in the
        # cache pay in training, too: a fifth less for the widest maps.
        with torch.no_grad():
            slices = inference_slices(x, len(kernel), x[..., 0].numel())
        once = torch.is_grad_enabled() or len(slices) == 1
        act = F.gelu if once else torch.ops.aten.gelu_
        tokens, out = x.flatten(0, 2), None
        for part in slices:
            hidden = F.linear(tokens, self.fc1.weight[part], self.fc1.bias[part])
            hidden = hidden.view(*x.shape[:3], -1)
            hidden = act(_depthwise(hidden, kernel[part], shift[part])).flatten(0, 2)
            columns = weight[:, part].t()
            if out is None:
                out = torch.addmm(bias, hidden, columns)
            else:
                out.addmm_(hidden, columns)
        assert out is not None
        return out.view(x.shape)


def _depthwise(x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """Depth-wise convolution of an NHWC tensor, same size."""
    return _nhwc(depthwise_conv(_nchw(x), kernel, bias))


class RGBDAttention(nn.Module):
    """Local attention, attention of pooled queries, and a gate by the second stream.

    Args:
        dim: Channels of the first stream; the second has half.
        heads: Of the pooled attention.
        window: Queries per side; 0 = no pooled attention.
        last: There is no second stream behind this block.
    """

    def __init__(self, dim: int, heads: int, window: int, last: bool) -> None:
        super().__init__()
        half = dim // 2
        self.heads, self.window = heads, window
        self.norm = nn.LayerNorm(dim, eps=_EPS)
        self.norm_e = nn.LayerNorm(half, eps=_EPS)
        self.q = nn.Linear(dim, dim)
        self.q_cut = nn.Linear(dim, half)
        self.l = nn.Linear(dim, dim)
        self.conv = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.a = nn.Linear(dim, dim)
        self.e_fore = nn.Linear(half, half)
        self.e_conv = nn.Conv2d(half, half, 7, padding=3, groups=half)
        self.e_back = nn.Linear(half, half)
        features = dim + half
        if window:
            self.kv = nn.Linear(dim, dim)
            self.short_cut_linear = nn.Linear(dim + half, half)
            features += half
        self.proj = nn.Linear(features, dim)
        self.proj_e = None if last else nn.Linear(features, half)

    def forward(
        self,
        x: Tensor,
        e: Tensor,
        scale: Tensor,
        scale_e: Tensor | None,
        valid: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return what is added to each stream, times its scale.

        Shape:
            - x, e: (B, H, W, dim), (B, H, W, dim / 2)
            - scale, scale_e: (dim,), (dim / 2,)
            - valid: (B, H, W, 1) each, in [0, 1]
            - output: as ``x`` and ``e``; None without second stream
        """
        x, e = self.norm(x), self.norm_e(e)
        if valid is not None:
            e = e * valid[1]
        t = F.gelu(self.l(x))
        gate = _spread(self.e_fore(e), self.e_conv, self.e_back)
        parts = [self.q(x) * _spread(t, self.conv, self.a)]
        if self.window:
            parts.append(self._pooled(x, e, t, valid))
        parts.append(self.q_cut(x) * gate)
        return self._project(parts, scale, scale_e)

    def _pooled(
        self, x: Tensor, e: Tensor, t: Tensor, valid: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        """Attend from pooled places of both streams to all places of ``t``."""
        pooled = [_pool(x, self.window, valid and valid[0])]
        pooled.append(_pool(e, self.window, valid and valid[1]))
        queries = self.short_cut_linear(torch.cat(pooled, -1)).flatten(1, 2)
        queries = queries.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        kv = self.kv(t).flatten(1, 2).unflatten(-1, (2, self.heads, -1))
        k, v = kv.permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(queries, k, v).transpose(1, 2)
        out = out.flatten(2).unflatten(1, (self.window, self.window))
        return _nhwc(
            F.interpolate(
                _nchw(out),
                (t.shape[1], t.shape[2]),
                mode='bilinear',
                align_corners=False,
            )
        )

    def _project(
        self, parts: list[Tensor], scale: Tensor, scale_e: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        layers = [self.proj] if self.proj_e is None else [self.proj, self.proj_e]
        if not _may_fold(*layers):
            features = torch.cat(parts, -1)
            out = scale * self.proj(features)
            if self.proj_e is None:
                return out, None
            return out, scale_e * self.proj_e(features)
        scales = [scale] if scale_e is None else [scale, scale_e]
        weight = torch.cat(
            [p.weight * s[:, None] for p, s in zip(layers, scales, strict=True)]
        )
        bias = torch.cat([p.bias * s for p, s in zip(layers, scales, strict=True)])
        out = F.linear(torch.cat(parts, -1), weight, bias)
        if scale_e is None:
            return out, None
        return out.split([len(scale), len(scale_e)], -1)


def _spread(x: Tensor, conv: Any, linear: Any) -> Tensor:
    """Depth-wise convolution, then a linear layer, of an NHWC tensor."""
    if not is_plain(conv):
        return linear(_nhwc(conv(_nchw(x))))
    return linear(_depthwise(x, conv.weight, conv.bias))


def _pool(x: Tensor, window: int, valid: Tensor | None) -> Tensor:
    """Mean of the valid places under each query; NHWC."""
    if valid is None:
        return _nhwc(F.adaptive_avg_pool2d(_nchw(x), window))
    share = F.adaptive_avg_pool2d(_nchw(valid), window)
    mean = F.adaptive_avg_pool2d(_nchw(x * valid), window)
    return _nhwc(mean / share.clamp(min=1e-3))


class DFormerBlock(nn.Module):
    """Attention and MLPs, each pre-normed with a scaled residual branch.

    Args:
        dim: Channels of the first stream; the second has half.
        heads: See :class:`RGBDAttention`.
        window: See :class:`RGBDAttention`.
        mlp_ratio: Hidden channels per channel.
        drop_path: Rate.
        last: The block has no output for the second stream.
        scale: Initial value of the layer scales.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        window: int,
        mlp_ratio: int,
        drop_path: float,
        last: bool = False,
        scale: float = 1e-6,
    ) -> None:
        super().__init__()
        half = dim // 2
        self.attn = RGBDAttention(dim, heads, window, last)
        self.mlp = ConvMLP(dim, mlp_ratio * dim)
        self.layer_scale_1 = nn.Parameter(torch.full((dim,), scale))
        self.layer_scale_2 = nn.Parameter(torch.full((dim,), scale))
        self.last = last
        if not last:
            self.mlp_e2 = ConvMLP(half, mlp_ratio * half)
            self.layer_scale_1_e = nn.Parameter(torch.full((half,), scale))
            self.layer_scale_2_e = nn.Parameter(torch.full((half,), scale))
        self.drop_path = DropPath(drop_path)

    def forward(
        self, x: Tensor, e: Tensor, valid: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return both streams; the second one as it came if this is the last block.

        Shape:
            - x, e: (B, H, W, dim), (B, H, W, dim / 2)
            - valid: (B, H, W, 1) each, in [0, 1]
            - output: as ``x`` and ``e``
        """
        drop = self.drop_path
        scale_e = None if self.last else self.layer_scale_1_e
        dx, de = self.attn(x, e, self.layer_scale_1, scale_e, valid)
        x = x + drop(dx)
        x = x + drop(self.mlp(x, self.layer_scale_2))
        if de is not None:
            e = e + drop(de)
            e = e + drop(self.mlp_e2(e, self.layer_scale_2_e))
        return x, e
