"""DAFormer's decode head as published: embed, upsample, join, fuse, classify.

python tools/benchmark/speed.py CONFIG --against tests/reference_forms/daformer_head.py
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from mmcv.cnn import ConvModule, DepthwiseSeparableConvModule
from torch import Tensor, nn
from torch.nn import functional as F


class PublishedASPP(nn.Module):
    """Dilated branches on the joined map, then a 3x3 convolution."""

    def __init__(
        self, width: int, channels: int, dilations: Sequence[int], separable: bool
    ) -> None:
        super().__init__()
        norm = dict(norm_cfg=dict(type='BN'))
        self.aspp_modules = nn.ModuleList()
        for d in dilations:
            if d == 1:
                part = ConvModule(width, channels, 1, **norm)
            else:
                kind = DepthwiseSeparableConvModule if separable else ConvModule
                part = kind(width, channels, 3, padding=d, dilation=d, **norm)
            self.aspp_modules.append(part)
        joined = channels * len(dilations)
        self.bottleneck = ConvModule(joined, channels, 3, padding=1, **norm)

    def forward(self, x: Tensor) -> Tensor:
        return self.bottleneck(torch.cat([part(x) for part in self.aspp_modules], 1))


class PublishedDAFormerHead(nn.Module):
    """The head without dropout."""

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int,
        embed_dims: int,
        num_classes: int,
        fusion: str = 'sepaspp',
        dilations: Sequence[int] = (1, 6, 12, 18),
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.embed_layers = nn.ModuleList()
        for width in in_channels:
            layer = nn.Module()
            layer.proj = nn.Linear(width, embed_dims)
            self.embed_layers.append(layer)
        joined = embed_dims * len(in_channels)
        if fusion == 'conv1':
            self.fuse_layer = ConvModule(joined, channels, 1, norm_cfg=dict(type='BN'))
        else:
            separable = fusion == 'sepaspp'
            self.fuse_layer = PublishedASPP(joined, channels, dilations, separable)
        self.conv_seg = nn.Conv2d(channels, num_classes, 1)

    def forward(self, feats: Sequence[Tensor]) -> Tensor:
        levels = []
        for x, layer in zip(feats, self.embed_layers, strict=True):
            tokens = layer.proj(x.flatten(2).transpose(1, 2))
            x = tokens.transpose(1, 2).unflatten(2, x.shape[2:])
            levels.append(
                F.interpolate(
                    x,
                    feats[0].shape[2:],
                    mode='bilinear',
                    align_corners=self.align_corners,
                )
            )
        return self.conv_seg(self.fuse_layer(torch.cat(levels, 1)))


class PublishedDAFormer(nn.Module):
    """A copy of the backbone, and the published head with the weights of ours."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        head = model.decode_head
        self.backbone = copy.deepcopy(model.backbone)
        self.head = PublishedDAFormerHead(
            head.in_channels,
            head.channels,
            head.embed_layers[0].proj.out_features,
            head.out_channels,
        )
        self.load_from(model)

    def load_from(self, model: Any) -> None:
        """Take the weights of ours; the state dicts are the same."""
        self.backbone.load_state_dict(model.backbone.state_dict())
        self.head.load_state_dict(model.decode_head.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))


PUBLISHED = {
    'mmseg_xmodal.MixTransformer': PublishedDAFormer,
    'mmseg_xmodal.MultiStreamBackbone': PublishedDAFormer,
}
