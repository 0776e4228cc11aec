"""DFormerv2: one image encoder whose attention takes depth as a geometry prior.

Paper: DFormerv2: Geometry Self-Attention for RGBD Semantic Segmentation, 2025,
https://arxiv.org/abs/2504.04701. Official code: https://github.com/VCIP-RGBD/DFormer
(LICENSE says MIT, the README "non-commercial use only"; so it is with the weights).
Written from a description, nothing is copied.

Differences: invalid depth is understood, a prior may have several channels (the mean of
their differences counts; official code reads the first), and every parameter is trained
(the official optimiser leaves ``slopes`` and ``gamma`` out). Others change no number:
see :mod:`..layers.geometry_attention` and :mod:`..layers.dformerv2_block`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from mmseg_xmodal.registry import MODELS
from mmseg_xmodal.structures import ModalityLayout

from ..converters.dformerv2 import convert_dformerv2
from ..converters.initialiser import initialise_streams
from ..layers.dformerv2_block import Block, Downsample, Stem
from ..layers.dformerv2_sizes import DFormerv2Variant, dformerv2_variant
from ..layers.drop_path import linear_drop_path
from ..layers.geometry_attention import make_geometry
from ..layers.tokens import to_map, to_tokens
from .base import StreamBackbone


class Encoder(nn.Module):
    """Stem and four stages; what pretrained weights are for.

    Args:
        size: Size of the network.
        in_channels: Channels of the image.
        drop_path_rate: Of the last block.
    """

    def __init__(
        self, size: DFormerv2Variant, in_channels: int, drop_path_rate: float
    ) -> None:
        super().__init__()
        self.size = size
        dims = size.embed_dims
        rates = linear_drop_path(drop_path_rate, size.depths)
        self.stem = Stem(in_channels, dims[0])
        self.stages = nn.ModuleList(
            nn.ModuleList(
                Block(
                    dims[i],
                    size.num_heads[i],
                    size.ranges[i],
                    size.mlp_ratios[i],
                    size.layer_scale[i],
                    rate,
                )
                for rate in rates[i]
            )
            for i in range(4)
        )
        self.downsamples = nn.ModuleList(
            Downsample(dims[i], dims[i + 1]) for i in range(3)
        )
        # Of the outputs only; the first has none.
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for dim in dims[1:])

    def forward(
        self, x: Tensor, depth: Tensor, valid: Tensor | None
    ) -> tuple[Tensor, ...]:
        """Return the map of every stage.

        Shape:
            - x: (B, in_channels, H, W)
            - depth: (B, C, H, W); valid: (B, 1, H, W)
        """
        x = self.stem(x)
        outs = []
        for i, blocks in enumerate(self.stages):
            if i:
                x = self.downsamples[i - 1](x)
            x = self._stage(i, blocks, x, depth, valid)
            shape = (x.shape[2], x.shape[3])
            outs.append(to_map(self.norms[i - 1](to_tokens(x)), shape) if i else x)
        return tuple(outs)

    def _stage(
        self, i: int, blocks: Any, x: Tensor, depth: Tensor, valid: Tensor | None
    ) -> Tensor:
        geometry = make_geometry(
            depth,
            valid,
            (x.shape[2], x.shape[3]),
            head_dim=self.size.embed_dims[i] // self.size.num_heads[i],
            full=self.size.full[i],
        )
        for block in blocks:
            x = block(x, geometry)
        return x


@MODELS.register_module()
class DFormerv2(StreamBackbone):
    """Image encoder with geometry self-attention.

    The first stream is the image, the second the prior (depth), which is never encoded:
    it says how far apart two places are. Invalid pixels of the prior say nothing; a
    placeholder stands in the image only.

    Args:
        modalities: The `modalities` dict of the config.
        variant: ``'dformerv2_s'``, ``'dformerv2_b'``, ``'dformerv2_l'``, or fields of
            :class:`DFormerv2Variant`.
        streams: Stream name to its modalities; None = one stream per modality. There
            are exactly two.
        drop_path_rate: Of the last block. Official on NYUv2: S 0.25, B 0.2, L 0.3.
        placeholder: What stands at invalid pixels, see :class:`StreamInput`.
        pretrained: Official ImageNet weights: a path, or
            ``dict(checkpoint=..., first_conv='sum')``, see
            :func:`initialise_streams`.
        init_cfg: As in mmengine; excludes ``pretrained``. None = the official
            initialisation.

    Shape:
        - input: (B, C, H, W), see :meth:`ModalityLayout.split`.
        - output: four maps (B, embed_dims[i], H / 4 / 2**i, W / 4 / 2**i), rounded up.

    Raises:
        ValueError: If the variant or the streams do not fit.
    """

    def __init__(
        self,
        modalities: ModalityLayout | Mapping[str, Mapping[str, Any]],
        variant: str | DFormerv2Variant | Mapping[str, Any] = 'dformerv2_s',
        streams: Mapping[str, Sequence[str]] | None = None,
        drop_path_rate: float = 0.25,
        placeholder: str | None = None,
        pretrained: str | Mapping[str, Any] | None = None,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(modalities, streams, placeholder, pretrained, init_cfg)
        self.variant = variant
        if len(self.input.names) != 2:
            raise ValueError(
                f'DFormerv2 reads an image and a geometry prior, got the streams '
                f'{list(self.input.names)}, expected 2. Merge modalities into one '
                "stream, such as streams=dict(rgb=['rgb', 'nir'], prior=['depth'])."
            )
        size = dformerv2_variant(variant)
        self.embed_dims = size.embed_dims
        self.encoder = Encoder(size, self.input.channels[0], drop_path_rate)

    def init_weights(self) -> None:
        """Official initialisation or ``init_cfg``, then pretrained weights, if any."""
        if self.init_cfg:
            super().init_weights()
            return
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        if self.pretrained is not None:
            image = self.input.names[0]
            self.init_report = initialise_streams(
                {image: self.encoder}, self.pretrained, convert=convert_dformerv2
            )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the map of every stage."""
        (image, prior), valid = self.input(x)
        return self.encoder(image, prior, None if valid is None else valid[1])
