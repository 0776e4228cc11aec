"""The fusion of MMSFormer and StitchFusion: linear, multi-scale MixFFN, channel gate.

Papers: MMSFormer (Multimodal Transformer for Material Segmentation), 2023/2024,
https://arxiv.org/abs/2309.04001, official code https://github.com/CSIPlab/MMSFormer
(Apache-2.0, with the line "for commercial use contact the authors"); StitchFusion,
2024, https://arxiv.org/abs/2408.01343, whose fusion is the same.

Differences that change no number (exact algebra): the linear layer on concatenated
streams is a sum of products, nothing is concatenated; two linear maps in a row are one
where there are more places than channels; ``x + dw3(x) + dw5(x) + dw7(x)`` is one 7x7
depth-wise convolution; BN is folded in eval mode. A validity per stream is understood.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from torch import Tensor, nn

from mmseg_xmodal.registry import MODELS

from ..layers.gelu_linear import gelu_linear
from ..layers.initialisation import segformer_init
from ..layers.residual import add_branch
from ..layers.resize_linear import fold_norm, is_foldable
from ..layers.slices import is_plain
from ..layers.tokens import to_map, to_tokens
from ..layers.wide_depthwise import depthwise_conv

_KERNELS = (3, 5, 7)


class _PointwiseNorm(nn.Module):
    """1x1 convolution and norm, under published keys."""

    def __init__(self, channels: int, norm_cfg: dict) -> None:
        super().__init__()
        self.pwconv = nn.Conv2d(channels, channels, 1)
        self.bn = build_norm_layer(norm_cfg, channels)[1]

    def forward(
        self, x: Tensor, size: tuple[int, int], before: nn.Linear | None = None
    ) -> Tensor:
        """(B, N, C) to (B, N, C); ``before`` is applied first."""
        weight: Tensor = self.pwconv.weight.flatten(1)
        bias: Any = self.pwconv.bias
        if before is not None and x[..., 0].numel() > len(weight):
            # One product of matrices instead of one of a matrix with all places. The
            # product is small: under AMP it keeps full precision.
            with torch.autocast(x.device.type, enabled=False):
                bias = bias + weight @ before.bias
                weight = weight @ before.weight
        elif before is not None:
            x = before(x)
        if is_foldable(self.bn, None):
            (weight,), bias = fold_norm([weight], bias, self.bn)
            return F.linear(x, weight, bias)
        return to_tokens(self.bn(to_map(F.linear(x, weight, bias), size)))


class _DepthwiseConv(nn.Module):
    """Holds a depth-wise convolution under its published key."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(
            channels, channels, kernel, padding=kernel // 2, groups=channels
        )


class MultiScaleMixFFN(nn.Module):
    """Linear, 1x1 + norm, x + dw3 + dw5 + dw7, 1x1 + norm, GELU, linear.

    Args:
        channels: Channels C, everywhere inside too.
        norm_cfg: Norm layers.
    """

    def __init__(self, channels: int, norm_cfg: dict) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, channels)
        self.pwconv1 = _PointwiseNorm(channels, norm_cfg)
        for kernel in _KERNELS:
            self.add_module(f'dwconv{kernel}', _DepthwiseConv(channels, kernel))
        self.pwconv2 = _PointwiseNorm(channels, norm_cfg)
        self.fc2 = nn.Linear(channels, channels)

    def _depthwise(self) -> list[nn.Conv2d]:
        return [getattr(self, f'dwconv{kernel}').dwconv for kernel in _KERNELS]

    def _one_kernel(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the convolution that equals x + dw3 + dw5 + dw7.

        Smaller kernels are padded with zeros; x is the kernel with 1 in the centre.
        """
        *smaller, largest = self._depthwise()
        weight: Tensor = largest.weight
        bias: Any = largest.bias
        for conv in smaller:
            margin = (weight.shape[2] - conv.weight.shape[2]) // 2
            weight = weight + F.pad(conv.weight, (margin,) * 4)
            bias = bias + conv.bias
        centre = weight.shape[2] // 2
        one = F.pad(weight.new_ones(1, 1, 1, 1), (centre,) * 4)
        return weight + one, bias

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, N, C) to (B, N, C)."""
        convs = self._depthwise()
        pointwise = [self.pwconv1.pwconv, self.pwconv2.pwconv]
        if not is_plain(self.fc1, *pointwise, *convs):
            return self._published(x, size)
        x = to_map(self.pwconv1(x, size, before=self.fc1), size)
        x = depthwise_conv(x, *self._one_kernel())
        return gelu_linear(self.pwconv2(to_tokens(x), size), self.fc2)

    def _published(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """The published order, for layers that are more than their weights (LoRA)."""
        first, second = self.pwconv1, self.pwconv2
        y = first.bn(first.pwconv(to_map(self.fc1(x), size)))
        for conv in [conv(y) for conv in self._depthwise()]:
            y = y + conv
        return gelu_linear(to_tokens(second.bn(second.pwconv(y))), self.fc2)


class ChannelGate(nn.Module):
    """Squeeze and excitation: a gate in (0, 1) per channel, from the mean over places.

    Args:
        channels: Channels C.
        reduction: Divides the hidden width.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(channels // reduction, 1)
        self.fc = nn.Sequential(
            nn.Linear(channels, hidden, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, channels, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) to (B, 1, C)."""
        return self.fc(x.mean(1, keepdim=True))


@MODELS.register_module()
class MixSEFusion(nn.Module):
    """Mix the streams linearly to z, then add MixFFN(z) and the gated z.

    A place where a stream is invalid counts as zero in that stream.

    Args:
        channels: Channels C of each stream and of the fused map.
        num_streams: Number of streams, 1 or more; backbones of this package fill it in.
        reduction: Divides the hidden width of the gate.
        norm_cfg: Norm layers of MixFFN; None = BN.
    """

    def __init__(
        self,
        channels: int,
        num_streams: int = 2,
        reduction: int = 16,
        norm_cfg: dict | None = None,
    ) -> None:
        super().__init__()
        self.num_streams = num_streams
        self.linear = nn.Linear(num_streams * channels, channels)
        self.mix_ffn = MultiScaleMixFFN(channels, norm_cfg or dict(type='BN'))
        self.gate = ChannelGate(channels, reduction)
        segformer_init(self)

    def _mix(self, tokens: list[Tensor]) -> Tensor:
        """The linear layer on the concatenation, without concatenating."""
        if not is_plain(self.linear):
            return self.linear(torch.cat(tokens, 2))
        weights = self.linear.weight.chunk(self.num_streams, 1)
        out = F.linear(tokens[0], weights[0], self.linear.bias)
        for part, weight in zip(tokens[1:], weights[1:], strict=True):
            out = add_branch(out, F.linear(part, weight))
        return out

    def forward(
        self, feats: list[Tensor], valid: list[Tensor] | None = None
    ) -> tuple[list[Tensor], Tensor]:
        """Fuse; the streams go on as they are.

        Shape:
            - feats: ``num_streams`` maps (B, C, h, w).
            - valid: as many maps (B, 1, h, w) in [0, 1], or None.
            - output: ``feats``, and (B, C, h, w).

        Raises:
            ValueError: If the number of streams differs.
        """
        if len(feats) != self.num_streams:
            raise ValueError(
                f'MixSEFusion was built for {self.num_streams} streams, got '
                f'{len(feats)}. Set num_streams={len(feats)} in the fusion config.'
            )
        tokens = [to_tokens(feat) for feat in feats]
        if valid is not None:
            tokens = [t * to_tokens(v) for t, v in zip(tokens, valid, strict=True)]
        size = (feats[0].shape[2], feats[0].shape[3])
        z = self._mix(tokens)
        fused = torch.addcmul(self.mix_ffn(z, size), z, self.gate(z))
        return list(feats), to_map(fused, size)
