"""Four maps of strides 4 to 32 from the one-stride maps of a plain ViT.

Paper: Exploring Plain Vision Transformer Backbones for Object Detection (ViTDet), 2022,
https://arxiv.org/abs/2203.16527: the simple feature pyramid. Official code:
https://github.com/facebookresearch/detectron2 (Apache-2.0), not opened.

Differences: any patch size (14 does not halve into 4: those levels are resampled, pixel
centres kept), any input size, one ViT map for all levels or one for each, and stride 32
by a convolution instead of max pooling.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

STRIDES = (4, 8, 16, 32)


class MapNorm(nn.LayerNorm):
    """LayerNorm over the channels of a map.

    Shape:
        - x: (B, C, H, W)
        - output: as ``x``
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each place."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _Halve(nn.Module):
    """A 2x2 convolution of stride 2; an odd last row or column counts double."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[2] % 2, x.shape[3] % 2
        return self.conv(F.pad(x, (0, w, 0, h), mode='replicate') if h or w else x)


def _steps(channels: int, doublings: int) -> tuple[nn.Sequential, int]:
    """Layers that change the size by a power of two, and their output channels."""
    layers: list[nn.Module] = []
    for i in range(doublings):
        if i > 0:
            layers += [MapNorm(channels), nn.GELU()]
        narrow = max(channels // 2, 1)
        layers.append(nn.ConvTranspose2d(channels, narrow, 2, 2))
        channels = narrow
    for i in range(-doublings):
        if i > 0:
            layers += [MapNorm(channels), nn.GELU()]
        layers.append(_Halve(channels))
    return nn.Sequential(*layers), channels


def resample(x: Tensor, factor: float, size: tuple[int, int]) -> Tensor:
    """Scale a map by an exact factor and cut it to a size.

    ``F.interpolate`` to a size would stretch: here pixel centres keep their places.

    Args:
        x: The map.
        factor: New pixels per old one.
        size: Of the result; places behind the map repeat its last row and column.

    Shape:
        - x: (B, C, h, w)
        - output: (B, C, size[0], size[1])
    """
    if factor != 1:
        # Two more places at each end, since the scaled size is rounded down.
        x = F.pad(x, (0, 2, 0, 2), mode='replicate')
        x = F.interpolate(x, scale_factor=factor, mode='bilinear', align_corners=False)
    return x[:, :, : size[0], : size[1]]


class ViTPyramid(nn.Module):
    """Simple feature pyramid.

    Args:
        in_channels: Of each map of the ViT: one for all levels, or four.
        patch: Their stride in pixels.
        channels: Of the output: one number, or one per level.

    Shape:
        - maps: (B, in_channels[i], ceil(H / patch), ceil(W / patch))
        - output: (B, channels[i], ceil(H / s), ceil(W / s)), s in 4, 8, 16, 32

    Raises:
        ValueError: If there are neither one nor four maps, or the channels do not fit.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        patch: int,
        channels: int | Sequence[int] = 256,
    ) -> None:
        super().__init__()
        widths = [channels] * 4 if isinstance(channels, int) else list(channels)
        if len(in_channels) not in (1, 4) or len(widths) != 4 or min(widths) < 1:
            raise ValueError(
                f'The pyramid got {len(in_channels)} maps and the output channels '
                f'{channels}, expected 1 or 4 maps, and one number or 4. Change '
                'out_indices or pyramid_channels of the backbone.'
            )
        self.strides = STRIDES
        self.out_channels = tuple(widths)
        self.single = len(in_channels) == 1
        self.factors: list[float] = []
        self.steps, self.mixers = nn.ModuleList(), nn.ModuleList()
        self.finishers = nn.ModuleList()
        for i, (stride, width) in enumerate(zip(STRIDES, widths, strict=True)):
            doublings = round(math.log2(patch / stride))
            steps, narrow = _steps(in_channels[0 if self.single else i], doublings)
            self.factors.append(patch / 2**doublings / stride)
            self.steps.append(steps)
            self.mixers.append(nn.Conv2d(narrow, width, 1))
            self.finishers.append(
                nn.Sequential(
                    MapNorm(width),
                    nn.Conv2d(width, width, 3, padding=1),
                    MapNorm(width),
                )
            )

    def forward(
        self, maps: Sequence[Tensor], size: tuple[int, int]
    ) -> tuple[Tensor, ...]:
        """Make the levels.

        Args:
            maps: Of the ViT.
            size: Height and width of the input in pixels.
        """
        outs = []
        for i, stride in enumerate(STRIDES):
            wanted = (-(-size[0] // stride), -(-size[1] // stride))
            x = self.steps[i](maps[0 if self.single else i])
            x = resample(self.mixers[i](x), self.factors[i], wanted)
            outs.append(self.finishers[i](x))
        return tuple(outs)
