"""The decode head of DAFormer, which HRDA and MIC use as well.

Papers: DAFormer, 2022, https://arxiv.org/abs/2111.14887; HRDA, 2022,
https://arxiv.org/abs/2204.13132. Official code: https://github.com/lhoyer/MIC
(Apache-2.0). Clean room, nothing copied; the state dict is the official one.

Differences that change no number: with ``fusion='conv1'`` the embedding of a level and
its part of the convolution are one matrix, applied at the level's own size before the
upsampling; BN in eval mode is folded into its convolution. (The 1x1 branch of the other
fusions could act on each level as well. That was not faster: the joined map is needed
anyway.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmcv.cnn import ConvModule, DepthwiseSeparableConvModule
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn
from torch.nn import functional as F

from mmseg_xmodal.registry import MODELS

from ..layers.resize_linear import fold_norm, is_foldable, sum_of_levels
from ..layers.slices import is_plain
from ..layers.tokens import to_map, to_tokens

FUSIONS = ('sepaspp', 'aspp', 'conv1')


class _Embedding(nn.Module):
    """A linear layer on the channels of a level, under its published key."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.proj = nn.Linear(in_channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to tokens (B, h * w, E)."""
        return self.proj(to_tokens(x))


class _ASPP(nn.Module):
    """Parallel dilated convolutions and a 3x3 one, without pooling of the image."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        dilations: Sequence[int],
        separable: bool,
        **layers: Any,
    ) -> None:
        super().__init__()
        self.aspp_modules = nn.ModuleList()
        for d in dilations:
            size = dict(kernel_size=1) if d == 1 else dict(kernel_size=3, padding=d)
            kind = DepthwiseSeparableConvModule if separable and d > 1 else ConvModule
            self.aspp_modules.append(
                kind(in_channels, channels, dilation=d, **size, **layers)
            )
        width = len(dilations) * channels
        self.bottleneck = ConvModule(width, channels, 3, padding=1, **layers)

    def forward(self, levels: Sequence[Tensor], align_corners: bool) -> Tensor:
        """Fuse embedded levels; the result has the size of the first one."""
        size = levels[0].shape[2:]
        # NCHW in memory, turned while the levels are small: dilated depth-wise
        # convolutions take longer in the other order on CPUs.
        joined = torch.cat(
            [_resize(level.contiguous(), size, align_corners) for level in levels], 1
        )
        branches = [_branch(branch, joined) for branch in self.aspp_modules]
        return _convolve(self.bottleneck, torch.cat(branches, 1))


def _resize(x: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    if x.shape[2:] == size:
        return x
    return F.interpolate(x, tuple(size), mode='bilinear', align_corners=align_corners)


def _is_plain_pointwise(part: nn.Module) -> bool:
    return (
        isinstance(part, ConvModule)
        and part.kernel_size == (1, 1)
        and is_plain(part.conv)
        and not part._forward_hooks
    )


def _folded(part: ConvModule) -> tuple[Tensor, Tensor | None, nn.Module | None]:
    """Matrix and bias of the convolution, and the norm that is left to apply."""
    weight, bias = part.conv.weight.flatten(1), part.conv.bias
    if not part.with_norm:
        return weight, bias, None
    if not is_foldable(part.norm, None):
        return weight, bias, part.norm
    (weight,), bias = fold_norm([weight], bias, part.norm)
    return weight, bias, None


def _finish(part: ConvModule, norm: nn.Module | None, x: Tensor) -> Tensor:
    x = x if norm is None else norm(x)
    return part.activate(x) if part.with_activation else x


def _convolve(part: ConvModule, x: Tensor) -> Tensor:
    """A ``ConvModule``, with its BN folded in where that is a fixed map."""
    conv = part.conv
    if not is_plain(conv) or part._forward_hooks:
        # Layers that are more than their weights (LoRA).
        return part(x)
    weight, bias, norm = _folded(part)
    x = F.conv2d(
        x,
        weight.view_as(conv.weight),
        bias,
        conv.stride,
        conv.padding,
        conv.dilation,
        conv.groups,
    )
    return _finish(part, norm, x)


def _branch(part: nn.Module, x: Tensor) -> Tensor:
    if isinstance(part, DepthwiseSeparableConvModule):
        return _convolve(part.pointwise_conv, _convolve(part.depthwise_conv, x))
    return _convolve(part, x)


@MODELS.register_module()
class DAFormerHead(BaseDecodeHead):
    """Levels to equal channels, upsampled, joined, fused with context, classified.

    Args:
        in_channels: Channels of the levels, the largest level first.
        channels: Of the map before the classifier.
        embed_dims: Channels of each level after its linear layer.
        fusion: ``'sepaspp'`` (depth-wise separable dilated convolutions; the paper),
            ``'aspp'`` (full ones), or ``'conv1'`` (one 1x1 convolution; the scale
            attention of HRDA).
        dilations: Of the parallel convolutions; 1 = a plain 1x1 one.
        in_index: Which maps of the backbone are the levels; None = the first ones.
        norm_cfg: Norm layer; None = BN.
        kwargs: Of mmseg's ``BaseDecodeHead``, such as ``num_classes``.

    Shape:
        - input: maps (B, in_channels[i], h_i, w_i)
        - output: logits (B, out_channels, h_0, w_0)

    Raises:
        ValueError: If ``fusion`` is unknown, or ``in_channels`` and ``in_index``
            differ in length.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int = 256,
        *,
        embed_dims: int = 256,
        fusion: str = 'sepaspp',
        dilations: Sequence[int] = (1, 6, 12, 18),
        in_index: Sequence[int] | None = None,
        norm_cfg: dict | None = None,
        **kwargs: Any,
    ) -> None:
        index = list(range(len(in_channels)) if in_index is None else in_index)
        if len(index) != len(in_channels):
            raise ValueError(
                f'DAFormerHead has in_channels={tuple(in_channels)} and in_index='
                f'{tuple(index)}, expected one index per level. Change decode_head.'
            )
        if fusion not in FUSIONS:
            raise ValueError(
                f'DAFormerHead has fusion={fusion!r}, expected one of {FUSIONS}. '
                'Change decode_head.'
            )
        super().__init__(
            in_channels=list(in_channels),
            channels=channels,
            in_index=index,
            input_transform='multiple_select',
            norm_cfg=norm_cfg or dict(type='BN', requires_grad=True),
            **kwargs,
        )
        self.embed_layers = nn.ModuleList(
            _Embedding(width, embed_dims) for width in in_channels
        )
        joined = embed_dims * len(in_channels)
        layers = dict(norm_cfg=self.norm_cfg, act_cfg=self.act_cfg)
        self.fuse_layer: nn.Module
        if fusion == 'conv1':
            self.fuse_layer = ConvModule(
                joined, channels, 1, conv_cfg=self.conv_cfg, **layers
            )
        else:
            self.fuse_layer = _ASPP(
                joined, channels, dilations, fusion == 'sepaspp', **layers
            )

    def embed(self, feats: Sequence[Tensor]) -> list[Tensor]:
        """Levels with ``embed_dims`` channels, each at its own size."""
        return [
            to_map(layer(x), (x.shape[2], x.shape[3]))
            for layer, x in zip(self.embed_layers, feats, strict=True)
        ]

    def fuse(self, feats: Sequence[Tensor]) -> Tensor:
        """The map before dropout and classifier; (B, channels, h_0, w_0)."""
        part = self.fuse_layer
        if isinstance(part, _ASPP):
            return part(self.embed(feats), self.align_corners)
        layers: Any = self.embed_layers
        linears = [layer.proj for layer in layers]
        if _is_plain_pointwise(part) and is_plain(*linears):
            return self._fuse_matrices(feats, linears)
        size = feats[0].shape[2:]
        levels = [_resize(x, size, self.align_corners) for x in self.embed(feats)]
        return part(torch.cat(levels, 1))

    def _fuse_matrices(self, feats: Sequence[Tensor], linears: list) -> Tensor:
        """One matrix per level: its part of the convolution after its embedding.

        The products are small: under AMP they keep full precision.
        """
        weight, bias, norm = _folded(self.fuse_layer)
        parts = weight.chunk(len(linears), 1)
        with torch.autocast(weight.device.type, enabled=False):
            pairs = list(zip(parts, linears, strict=True))
            weights = [part @ layer.weight for part, layer in pairs]
            offset = torch.stack([part @ layer.bias for part, layer in pairs]).sum(0)
        bias = offset if bias is None else offset + bias
        x = sum_of_levels(feats, weights, bias, self.align_corners)
        return _finish(self.fuse_layer, norm, x.contiguous())

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return the logits at the size of the first level."""
        return self.cls_seg(self.fuse(self._transform_inputs(inputs)))
