"""The fusion of CMX: rectify both streams, then fuse them.

Paper: CMX, 2022, https://arxiv.org/abs/2203.04838. Official code:
https://github.com/huaaaliu/RGBX_Semantic_Segmentation (MIT).
"""

from __future__ import annotations

from torch import Tensor, nn

from mmseg_xmodal.registry import MODELS

from .cross_fusion import FeatureFusionModule
from .rectify import FeatureRectifyModule


@MODELS.register_module()
class CMXFusion(nn.Module):
    """FRM, whose outputs feed the next stage, then FFM, which feeds the decoder.

    Args:
        channels: Channels C of both streams.
        num_heads: Heads of the FFM; C is a multiple.
        norm_cfg: Norm layers of the FFM; None = BN.
    """

    def __init__(
        self, channels: int, num_heads: int = 1, norm_cfg: dict | None = None
    ) -> None:
        super().__init__()
        self.rectify = FeatureRectifyModule(channels)
        self.fuse = FeatureFusionModule(channels, num_heads, norm_cfg)

    def forward(
        self, feats: list[Tensor], valid: list[Tensor] | None = None
    ) -> tuple[list[Tensor], Tensor]:
        """Return the rectified streams and the fused map.

        Shape:
            - feats: two maps (B, C, h, w).
            - valid: two maps (B, 1, h, w) in [0, 1], or None.
            - output: two maps (B, C, h, w), and one.

        Raises:
            ValueError: If there are not two streams.
        """
        streams, _ = self.rectify(feats, valid)
        return self.fuse(streams, valid)
