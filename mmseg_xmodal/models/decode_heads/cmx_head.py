"""The MLP decoder of CMX.

Paper: CMX, 2022, https://arxiv.org/abs/2203.04838. Official code:
https://github.com/huaaaliu/RGBX_Semantic_Segmentation (MIT).

Difference that changes no number: see :mod:`.mlp_head`.
"""

from __future__ import annotations

from typing import Any, ClassVar

from mmcv.cnn import build_norm_layer
from torch import nn

from mmseg_xmodal.registry import MODELS

from .mlp_head import MLPDecodeHead


@MODELS.register_module()
class CMXHead(MLPDecodeHead):
    """MLP decoder whose fusing convolution (``linear_fuse.0``) has a bias.

    The default BN eps is 1e-5, which the official evaluation uses; official training
    uses 1e-3 (``norm_cfg=dict(type='BN', eps=1e-3)``).

    Args:
        kwargs: See :class:`MLPDecodeHead`.
    """

    # Kaiming's normal distribution of the convolutions, by their inputs.
    official_init: ClassVar[list[dict[str, Any]]] = [
        dict(
            type='Kaiming',
            layer='Conv2d',
            a=0,
            mode='fan_in',
            nonlinearity='relu',
            distribution='normal',
        )
    ]

    def _build_fuse(self, channels: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(4 * channels, channels, 1),
            build_norm_layer(self.norm_cfg, channels)[1],
            nn.ReLU(inplace=True),
        )

    @property
    def fuse_layers(self) -> tuple[Any, nn.Module]:
        """The convolution and the norm of ``linear_fuse``."""
        fuse: Any = self.linear_fuse
        return fuse[0], fuse[1]
