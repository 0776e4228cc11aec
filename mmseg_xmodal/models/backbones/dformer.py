"""DFormer: one encoder for RGB and depth, in which both meet in every block.

Paper: DFormer: Rethinking RGBD Representation Learning for Semantic Segmentation, 2024,
https://arxiv.org/abs/2309.09668. Official code: https://github.com/VCIP-RGBD/DFormer
(LICENSE says MIT, the README "non-commercial use only"; so it is with the weights).
Written from a description, nothing is copied.

Differences: both streams may have any number of channels, and invalid pixels are
understood. Others change no number: linear maps of the concatenated features are sums
of products, layer scales are part of the matrix before them, ``h + DW(h)`` is one
depth-wise convolution, BN of the stems is folded in eval mode, wide hidden maps are
taken in slices at inference, attention is fused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmseg_xmodal.registry import MODELS
from mmseg_xmodal.structures import ModalityLayout

from ..converters.dformer import convert_dformer
from ..converters.initialiser import initialise_streams
from ..layers.dformer_block import DFormerBlock
from ..layers.dformer_sizes import DFormerVariant, dformer_variant
from ..layers.drop_path import linear_drop_path
from ..layers.resize_linear import fold_norm, is_foldable
from ..layers.slices import is_plain
from .base import StreamBackbone


class Stem(nn.Sequential):
    """Two strided convolutions, each with BN, and GELU between them.

    Args:
        channels: Of the input.
        hidden: Between the convolutions.
        dim: Of the output.
    """

    def __init__(self, channels: int, hidden: int, dim: int) -> None:
        super().__init__(
            nn.Conv2d(channels, hidden, 3, 2, 1),
            nn.BatchNorm2d(hidden),
            nn.GELU(),
            nn.Conv2d(hidden, dim, 3, 2, 1),
            nn.BatchNorm2d(dim),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) to (B, dim, H / 4, W / 4), rounded up."""
        conv1, norm1, act, conv2, norm2 = self
        return _conv_norm(conv2, norm2, act(_conv_norm(conv1, norm1, x)))


def _conv_norm(conv: Any, norm: Any, x: Tensor) -> Tensor:
    if not (is_plain(conv) and is_foldable(norm, None)):
        return norm(conv(x))
    (weight,), bias = fold_norm([conv.weight.flatten(1)], conv.bias, norm)
    weight = weight.view_as(conv.weight)
    return F.conv2d(x, weight, bias, conv.stride, conv.padding)


@MODELS.register_module()
class DFormer(StreamBackbone):
    """One encoder for two streams: RGB at full width, depth at half.

    Args:
        modalities: The `modalities` dict of the config.
        variant: ``'dformer_tiny'``, ``'dformer_small'``, ``'dformer_base'``,
            ``'dformer_large'``, or fields of :class:`DFormerVariant`.
        streams: Stream name to its modalities; None = one stream per modality.
            Exactly two: the first one leads (RGB), the second one guides (depth).
        drop_path_rate: Of the last block; grows linearly from 0.
        layer_scale: Initial value of the layer scales.
        placeholder: What stands at invalid pixels, see :class:`StreamInput`.
        pretrained: Official RGB-D pretrained weights: a path, or
            ``dict(checkpoint=..., first_conv='sum')``, see
            :func:`initialise_streams`.
        init_cfg: As in mmengine; excludes ``pretrained``.

    Shape:
        - input: (B, C, H, W), see :meth:`ModalityLayout.split`.
        - output: four maps (B, embed_dims[i], H / 4 / 2**i, W / 4 / 2**i), rounded up,
          of the first stream; no norm behind them.

    Raises:
        ValueError: If the variant is unknown, or there are not two streams.
    """

    def __init__(
        self,
        modalities: ModalityLayout | Mapping[str, Mapping[str, Any]],
        variant: str | DFormerVariant | Mapping[str, Any] = 'dformer_base',
        streams: Mapping[str, Sequence[str]] | None = None,
        drop_path_rate: float = 0.1,
        layer_scale: float = 1e-6,
        placeholder: str | None = None,
        pretrained: str | Mapping[str, Any] | None = None,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(modalities, streams, placeholder, pretrained, init_cfg)
        size = dformer_variant(variant)
        self.variant = variant
        _check_two_streams(self.input.names)
        self.embed_dims = tuple(size.embed_dims)
        first, second = self.input.channels
        dims = self.embed_dims
        self.downsample_layers = _downsamplers(first, dims)
        self.downsample_layers_e = _downsamplers(second, [dim // 2 for dim in dims])
        rates = linear_drop_path(drop_path_rate, size.depths)
        self.stages = nn.ModuleList(
            nn.ModuleList(
                DFormerBlock(
                    dims[i],
                    size.num_heads[i],
                    size.windows[i],
                    size.mlp_ratios[i],
                    rate,
                    last=i + 1 == len(dims) and j + 1 == size.depths[i],
                    scale=layer_scale,
                )
                for j, rate in enumerate(rates[i])
            )
            for i in range(len(dims))
        )

    def init_weights(self) -> None:
        """Linear layers as in ViT, then the pretrained weights, if any."""
        super().init_weights()
        if self.init_cfg:
            return
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        if self.pretrained is not None:
            leading = dict(downsample_layers=self.downsample_layers, stages=self.stages)
            guiding = dict(downsample_layers_e=self.downsample_layers_e)
            parts = (nn.ModuleDict(leading), nn.ModuleDict(guiding))
            self.init_report = initialise_streams(
                dict(zip(self.input.names, parts, strict=True)),
                self.pretrained,
                convert=convert_dformer,
            )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the first stream's map of every stage."""
        (x, e), valid = self.input(x)
        if valid is not None:
            x, e = x * valid[0], e * valid[1]
        outs = []
        stages: Any = self.stages
        for down, down_e, blocks in zip(
            self.downsample_layers, self.downsample_layers_e, stages, strict=True
        ):
            x, e = _nhwc(down(x)), _nhwc(down_e(e))
            known = None if valid is None else _pool_valid(valid, x)
            for block in blocks:
                x, e = block(x, e, known)
            x, e = x.permute(0, 3, 1, 2), e.permute(0, 3, 1, 2)
            outs.append(x)
        return tuple(outs)


def _downsamplers(channels: int, dims: Sequence[int]) -> nn.ModuleList:
    """The stem, then BN and a strided convolution before each later stage."""
    layers: list[nn.Module] = [Stem(channels, dims[0] // 2, dims[0])]
    for before, dim in zip(dims, dims[1:], strict=False):
        layers.append(
            nn.Sequential(nn.BatchNorm2d(before), nn.Conv2d(before, dim, 3, 2, 1))
        )
    return nn.ModuleList(layers)


def _nhwc(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).contiguous()


def _pool_valid(valid: list[Tensor], like: Tensor) -> tuple[Tensor, Tensor]:
    size = (like.shape[1], like.shape[2])
    pooled = F.adaptive_avg_pool2d(torch.cat(valid, 1), size).to(like.dtype)
    first, second = pooled.unsqueeze(-1).unbind(1)
    return first, second


def _check_two_streams(names: tuple[str, ...]) -> None:
    if len(names) != 2:
        raise ValueError(
            f'DFormer reads exactly 2 streams, got {len(names)}: {list(names)}. Merge '
            "modalities into one stream, such as streams=dict(rgb=['rgb'], "
            "x=['depth', 'thermal'])."
        )
