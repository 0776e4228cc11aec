"""CMX with Swin streams: two Swin Transformers that rectify each other.

Paper: CMX: Cross-Modal Fusion for RGB-X Semantic Segmentation with Transformers, 2022,
https://arxiv.org/abs/2203.04838. Official code:
https://github.com/huaaaliu/RGBX_Semantic_Segmentation (MIT).

The order within a stage is another one than with MiT streams: the maps are rectified
as they leave the blocks, without a norm. The next stage merges the rectified maps; the
fusion for the decoder reads them through the output norm of each stream.

Differences: a stream may read several modalities, a modality may have any number of
channels, and invalid pixels are understood; Swin-T and Swin-L can be built as well. The
numbers are those of the official code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.model import ModuleList
from torch import Tensor

from mmseg_xmodal.registry import MODELS
from mmseg_xmodal.structures import ModalityLayout

from ..converters.initialiser import initialise_streams
from ..converters.swin import convert_swin
from ..fusion.cmx_fusion import CMXFusion
from ..layers.streams import fuse_stages
from ..layers.swin import Swin
from ..layers.swin_sizes import SwinVariant, swin_variant
from .base import StreamBackbone


@MODELS.register_module()
class CMXSwin(StreamBackbone):
    """Two Swin streams with feature rectification and fusion after every stage.

    Args:
        modalities: The `modalities` dict of the config.
        variant: ``'swin_s'`` as published, ``'swin_b_384'`` for the official code's
            ``swin_b`` (window 12), further names of :data:`SWIN_VARIANTS`, or fields
            of :class:`SwinVariant`.
        streams: Stream name to its modalities, exactly two; None = one stream per
            modality.
        drop_path_rate: Of the last block; grows linearly from 0.
        norm_eps: Of every LayerNorm of the streams.
        placeholder: What stands at invalid pixels, see :class:`StreamInput`.
        pretrained: ImageNet Swin weights for both streams: a path, or
            ``dict(checkpoint=..., first_conv='sum')``, see
            :func:`initialise_streams`.
        init_cfg: As in mmengine; excludes ``pretrained``.

    Shape:
        - input: (B, C, H, W), see :meth:`ModalityLayout.split`.
        - output: one map (B, embed_dims[i], H / 4 / 2**i, W / 4 / 2**i) per stage,
          rounded up.

    Raises:
        ValueError: If the variant or the streams do not fit.
    """

    def __init__(
        self,
        modalities: ModalityLayout | Mapping[str, Mapping[str, Any]],
        variant: str | SwinVariant | Mapping[str, Any] = 'swin_s',
        streams: Mapping[str, Sequence[str]] | None = None,
        drop_path_rate: float = 0.1,
        norm_eps: float = 1e-5,
        placeholder: str | None = None,
        pretrained: str | Mapping[str, Any] | None = None,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(modalities, streams, placeholder, pretrained, init_cfg)
        size = swin_variant(variant)
        self.variant = variant
        if len(self.input.names) != 2:
            raise ValueError(
                f'CMXSwin fuses exactly 2 streams, got {len(self.input.names)}: '
                f'{list(self.input.names)}. Merge modalities into one stream of the '
                "backbone, such as streams=dict(rgb=['rgb'], x=['nir', 'dem'])."
            )
        self.streams: Any = ModuleList(
            Swin(variant, channels, drop_path_rate, norm_eps)
            for channels in self.input.channels
        )
        self.embed_dims = size.embed_dims
        self.fusions = ModuleList(
            CMXFusion(dim, heads)
            for dim, heads in zip(size.embed_dims, size.num_heads, strict=True)
        )

    def init_weights(self) -> None:
        """Swin's initialisation, then the pretrained weights, if any."""
        super().init_weights()
        if self.pretrained is not None:
            streams = dict(zip(self.input.names, self.streams, strict=True))
            self.init_report = initialise_streams(
                streams, self.pretrained, convert=convert_swin
            )

    def _exchange(
        self, stage: int, feats: list[Tensor], valid: list[Tensor] | None
    ) -> tuple[list[Tensor], Tensor]:
        """Rectify the plain maps for the next stage, fuse the normed ones."""
        fusion: Any = self.fusions[stage]
        rectified, _ = fusion.rectify(feats, valid)
        normed = [
            stream.stages[stage].normed(feat)
            for stream, feat in zip(self.streams, rectified, strict=True)
        ]
        return rectified, fusion.fuse(normed, valid)[1]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the fused map of every stage."""
        inputs, valid = self.input(x)
        walkers = [
            stream.forward_plain(values)
            for stream, values in zip(self.streams, inputs, strict=True)
        ]
        exchanges = [
            lambda feats, pooled, stage=stage: self._exchange(stage, feats, pooled)
            for stage in range(len(self.fusions))
        ]
        return fuse_stages(walkers, exchanges, valid)
