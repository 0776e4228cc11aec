"""Fusion by concatenation and a 1x1 convolution, for any number of streams."""

from __future__ import annotations

import torch
from mmcv.cnn import ConvModule
from torch import Tensor, nn

from mmseg_xmodal.registry import MODELS


@MODELS.register_module()
class ConcatFusion(nn.Module):
    """Concatenate the streams and mix them with a 1x1 convolution, norm and ReLU.

    An invalid place of a stream counts as zero.

    Args:
        channels: Channels C of each stream and of the fused map.
        num_streams: Number of streams; backbones of this package fill it in.
        norm_cfg: Norm layer; None = BN.
    """

    def __init__(
        self, channels: int, num_streams: int = 2, norm_cfg: dict | None = None
    ) -> None:
        super().__init__()
        self.num_streams = num_streams
        self.mix = ConvModule(
            num_streams * channels, channels, 1, norm_cfg=norm_cfg or dict(type='BN')
        )

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
                f'ConcatFusion was built for {self.num_streams} streams, got '
                f'{len(feats)}. Set num_streams={len(feats)} in the fusion config.'
            )
        seen = list(feats)
        if valid is not None:
            seen = [f * v for f, v in zip(feats, valid, strict=True)]
        return list(feats), self.mix(torch.cat(seen, 1))
