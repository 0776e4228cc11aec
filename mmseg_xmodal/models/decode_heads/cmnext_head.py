"""The MLP decoder of CMNeXt, MMSFormer and StitchFusion (one code base).

Paper: CMNeXt (DELIVER), 2023, https://arxiv.org/abs/2303.01480. Official code:
https://github.com/jamycheung/DELIVER (Apache-2.0, with the line "for commercial use
contact the authors" in its README).

Difference that changes no number: see :mod:`.mlp_head`.
"""

from __future__ import annotations

from typing import Any, ClassVar

from mmcv.cnn import build_norm_layer
from torch import Tensor, nn

from mmseg_xmodal.registry import MODELS

from .mlp_head import MLPDecodeHead


class _ConvNorm(nn.Module):
    """1x1 convolution without bias, norm, ReLU, under published keys."""

    def __init__(self, channels: int, norm_cfg: dict) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4 * channels, channels, 1, bias=False)
        self.bn = build_norm_layer(norm_cfg, channels)[1]

    def forward(self, x: Tensor) -> Tensor:
        """(B, 4E, H, W) to (B, E, H, W)."""
        return self.bn(self.conv(x)).relu()


@MODELS.register_module()
class CMNeXtHead(MLPDecodeHead):
    """MLP decoder whose fusing convolution (``linear_fuse.conv``) has no bias.

    Args:
        kwargs: See :class:`MLPDecodeHead`.
    """

    # SegFormer's: convolutions are normal with variance 2 / outputs.
    official_init: ClassVar[list[dict[str, Any]]] = [
        dict(type='TruncNormal', layer='Linear', std=0.02),
        dict(
            type='Kaiming',
            layer='Conv2d',
            a=0,
            mode='fan_out',
            nonlinearity='relu',
            distribution='normal',
        ),
    ]

    def _build_fuse(self, channels: int) -> nn.Module:
        return _ConvNorm(channels, self.norm_cfg)

    @property
    def fuse_layers(self) -> tuple[Any, nn.Module]:
        """The convolution and the norm of ``linear_fuse``."""
        fuse: Any = self.linear_fuse
        return fuse.conv, fuse.bn
