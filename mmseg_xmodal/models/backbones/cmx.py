"""CMX: two MiT encoders that rectify each other after every stage.

Paper: CMX: Cross-Modal Fusion for RGB-X Semantic Segmentation with Transformers, 2022,
https://arxiv.org/abs/2203.04838. Official code:
https://github.com/huaaaliu/RGBX_Semantic_Segmentation (MIT; the ImageNet MiT weights
from which it starts are NVIDIA's, non-commercial).

Differences: a stream may read several modalities, a modality may have any number of
channels, invalid pixels are understood, any fusion can be put in, and MiT-B1 works (the
official builder makes a B0 of it). The numbers are those of the official code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.model import ModuleList
from torch import Tensor

from mmseg_xmodal.registry import MODELS
from mmseg_xmodal.structures import ModalityLayout

from ..converters.initialiser import initialise_streams
from ..converters.mit import convert_mit
from ..fusion import build_fusions
from ..layers.drop_path import linear_drop_path
from ..layers.mit import MiTVariant, MixTransformer, NormEps, mit_variant
from ..layers.streams import fuse_stages
from .base import StreamBackbone


def stage2_drop_path(
    rate: float, depths: tuple[int, ...], stream: int
) -> list[list[float]]:
    """Drop path rates of one stream as the official code has them.

    In stage 2 every block of the first stream uses the rate of that stage's first
    block, and every block of the other one the rate after it; the other stages grow
    linearly as usual. Training only.

    Args:
        rate: Rate of the last block.
        depths: Blocks per stage.
        stream: 0 for the first stream.

    Returns:
        One list per stage, one rate per block.
    """
    rates = linear_drop_path(rate, depths)
    flat = [value for stage in rates for value in stage]
    second = flat[min(depths[0] + (1 if stream else 0), len(flat) - 1)]
    rates[1] = [second] * depths[1]
    return rates


@MODELS.register_module()
class CMX(StreamBackbone):
    """Two MiT streams with feature rectification and fusion after every stage.

    Args:
        modalities: The `modalities` dict of the config.
        variant: ``'mit_b0'`` to ``'mit_b5'``, or fields of :class:`MiTVariant`.
        streams: Stream name to its modalities; None = one stream per modality. The
            default fusion takes exactly two.
        fusion: Config, or one per stage; None = :class:`CMXFusion` with the published
            heads.
        drop_path_rate: Of the last block.
        published_drop_path: Use the published rates in stage 2 (see
            :func:`stage2_drop_path`) instead of linear ones.
        norm_eps: Fields of :class:`NormEps`; None = the published ones.
        placeholder: What stands at invalid pixels, see :class:`StreamInput`.
        pretrained: ImageNet MiT weights for all streams: a path, or
            ``dict(checkpoint=..., first_conv='sum')``, see
            :func:`initialise_streams`.
        init_cfg: As in mmengine; excludes ``pretrained``.

    Shape:
        - input: (B, C, H, W), see :meth:`ModalityLayout.split`.
        - output: four maps (B, embed_dims[i], H / 4 / 2**i, W / 4 / 2**i), rounded up.

    Raises:
        ValueError: If the variant, the streams or the fusion do not fit.
    """

    def __init__(
        self,
        modalities: ModalityLayout | Mapping[str, Mapping[str, Any]],
        variant: str | MiTVariant | Mapping[str, Any] = 'mit_b2',
        streams: Mapping[str, Sequence[str]] | None = None,
        fusion: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        drop_path_rate: float = 0.1,
        published_drop_path: bool = True,
        norm_eps: NormEps | dict | None = None,
        placeholder: str | None = None,
        pretrained: str | Mapping[str, Any] | None = None,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(modalities, streams, placeholder, pretrained, init_cfg)
        size = mit_variant(variant)
        self.variant = variant
        if fusion is None:
            _check_two_streams(self.input.names)
            fusion = [
                dict(type='mmseg_xmodal.CMXFusion', num_heads=h) for h in size.num_heads
            ]
        self.streams = ModuleList(
            MixTransformer(
                variant,
                channels,
                drop_path=_rates(published_drop_path, drop_path_rate, size.depths, i),
                norm_eps=norm_eps,
            )
            for i, channels in enumerate(self.input.channels)
        )
        self.embed_dims = tuple(size.embed_dims)
        self.fusions = build_fusions(fusion, size.embed_dims, len(self.streams))

    def init_weights(self) -> None:
        """SegFormer's initialisation, then the pretrained weights, if any."""
        super().init_weights()
        if self.pretrained is not None:
            streams = dict(zip(self.input.names, self.streams, strict=True))
            self.init_report = initialise_streams(
                streams, self.pretrained, convert=convert_mit
            )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the fused map of every stage."""
        inputs, valid = self.input(x)
        walkers = [
            stream.forward_stages(values)
            for stream, values in zip(self.streams, inputs, strict=True)
        ]
        return fuse_stages(walkers, self.fusions, valid)


def _rates(
    published: bool, rate: float, depths: tuple[int, ...], stream: int
) -> list[list[float]]:
    if published:
        return stage2_drop_path(rate, depths, stream)
    return linear_drop_path(rate, depths)


def _check_two_streams(names: tuple[str, ...]) -> None:
    if len(names) != 2:
        raise ValueError(
            f'CMX fuses exactly 2 streams, got {len(names)}: {list(names)}. Merge '
            "modalities into one stream, such as streams=dict(rgb=['rgb'], "
            "x=['nir', 'dem']), or use fusion=dict(type='mmseg_xmodal.MeanFusion') or "
            "fusion=dict(type='mmseg_xmodal.ConcatFusion')."
        )
