"""CMNeXt: a MiT for RGB, and one branch for any number of other modalities.

Paper: Delivering Arbitrary-Modal Semantic Segmentation, CVPR 2023,
https://arxiv.org/abs/2303.01480. Official code: https://github.com/jamycheung/DELIVER
(Apache-2.0, with the line "for commercial use contact the authors" in its README; the
ImageNet MiT weights from which it starts are NVIDIA's, non-commercial).

Per stage, every extra modality passes one shared strided convolution and a norm of its
own; the self-query hub merges them into one map, PPX blocks transform it, and the
fusion of CMX rectifies and fuses it with RGB.

Differences: a modality with one channel works with the three-channel convolution, a
stream may read several modalities, invalid places are understood, and the memory layout
slip of the official code (see :func:`scramble`) can be left out. Every parameter gets a
gradient, so that DDP needs no ``find_unused_parameters``. The numbers are those of the
official code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import ModuleList
from torch import Tensor, nn

from mmseg_xmodal.registry import MODELS
from mmseg_xmodal.structures import ModalityLayout

from ..converters.initialiser import initialise_streams
from ..converters.mit import convert_mit
from ..fusion import SelfQueryHub, build_fusions
from ..layers.drop_path import linear_drop_path
from ..layers.initialisation import segformer_init
from ..layers.mit import (
    MIT_VARIANTS,
    MiTVariant,
    MixTransformer,
    NormEps,
    mit_variant,
)
from ..layers.ppx import PPXBlock
from ..layers.shared_embed import SharedEmbed
from ..layers.streams import StreamInput
from ..layers.tokens import to_map, to_tokens
from .base import StreamBackbone

CMNEXT_VARIANTS = {f'cmnext_b{i}': f'mit_b{i}' for i in (2, 4, 5)}
# Hidden channels of the PPX blocks per channel; the paper's four stages.
_MLP_RATIOS = (8, 8, 4, 4)
_RGB_EPS = NormEps(patch=1e-5, reduction=1e-5, block=1e-5, stage=1e-5)
_EXTRA_EPS = 1e-6
_LAYOUTS = ('official', 'fixed')


def scramble(x: Tensor) -> Tensor:
    """Read the values of a map as if its channels lay last, which they do not.

    The official code does so, by a slip, to the features of several extra modalities
    before the merged map is added to them. Its released weights are trained with it.

    Shape:
        - x: (B, C, H, W)
        - output: as ``x``, the same values at other places
    """
    batch, channels, height, width = x.shape
    return x.reshape(batch, height, width, channels).permute(0, 3, 1, 2)


class ExtraStage(nn.Module):
    """One stage of the branch of the extra modalities.

    Args:
        in_channels: Input channels of the shared convolution.
        dim: Channels C.
        first: Whether it is the first stage (kernel 7, stride 4; else 3 and 2).
        num_extras: Number of extra modalities.
        mlp_ratio: Hidden channels of the PPX blocks per channel.
        drop_path: One rate per block.
        norm_cfg: Norm layers of the PPX blocks.
    """

    def __init__(
        self,
        in_channels: int,
        dim: int,
        first: bool,
        num_extras: int,
        mlp_ratio: int,
        drop_path: Sequence[float],
        norm_cfg: dict | None,
    ) -> None:
        super().__init__()
        kernel, stride = (7, 4) if first else (3, 2)
        self.embed = SharedEmbed(
            in_channels, dim, kernel, stride, num_extras, _EXTRA_EPS
        )
        self.hub = SelfQueryHub(dim, num_extras) if num_extras > 1 else None
        self.blocks = nn.ModuleList(
            PPXBlock(dim, mlp_ratio, rate, norm_cfg) for rate in drop_path
        )
        self.norm = nn.LayerNorm(dim, eps=_EXTRA_EPS)

    def forward(
        self, extras: Sequence[Tensor], valid: list[Tensor] | None
    ) -> tuple[list[Tensor], Tensor]:
        """Embed every modality, merge them, and transform the merged map.

        Returns:
            The modalities as the hub leaves them, and the merged map.

        Shape:
            - extras: (B, in_channels, H, W) each; one channel stands for all of them.
            - valid: (B, 1, h, w) each, in [0, 1], or None.
            - output: (B, C, h, w) each, and (B, C, h, w).
        """
        feats = self.embed(extras)
        merged = feats[0]
        if self.hub is not None:
            feats, merged = self.hub(feats, valid)
        for block in self.blocks:
            merged = block(merged)
        size = (merged.shape[2], merged.shape[3])
        return feats, to_map(self.norm(to_tokens(merged)), size)


@MODELS.register_module()
class CMNeXt(StreamBackbone):
    """RGB and any number of extra modalities, fused after every stage.

    The first stream is RGB, the others are the extra modalities, in the order of
    :class:`ModalityLayout`: that of a list, or, of a dict, colour ones first, then by
    name (depth, event, lidar). Without extra modalities this is MiT alone.

    Where a validity is given, an invalid place of an extra modality does not take part
    in the maximum of the hub, a missing modality never does (see
    :class:`SelfQueryHub`), and the merged map is valid where any extra modality is.

    Args:
        modalities: The `modalities` dict (or list) of the config.
        variant: ``'cmnext_b2'``, ``'cmnext_b4'`` or ``'cmnext_b5'`` of the paper,
            a MiT size (``'mit_b0'``), or fields of :class:`MiTVariant`.
        streams: Stream name to its modalities; None = one stream per modality.
        extra_channels: Input channels of the convolution that all extra modalities
            share. A stream has as many, or one, which counts as replicated.
        layout: ``'official'`` = with the slip of the released weights, see
            :func:`scramble`; ``'fixed'`` = without. It matters only with more than one
            extra modality; to train from scratch, prefer ``'fixed'``.
        drop_path_rate: Of the last block of both branches.
        norm_cfg: Norm layers of the PPX blocks and the fusion; None = BN.
        placeholder: What stands at invalid pixels, see :class:`StreamInput`.
        pretrained: ImageNet MiT weights for the RGB branch: a path, or
            ``dict(checkpoint=..., first_conv='sum')``, see
            :func:`initialise_streams`. The extra branch has no such weights.
        init_cfg: As in mmengine; excludes ``pretrained``.

    Shape:
        - input: (B, C, H, W), see :meth:`ModalityLayout.split`.
        - output: four maps (B, embed_dims[i], H / 4 / 2**i, W / 4 / 2**i), rounded up.

    Raises:
        ValueError: If the variant, the streams, their channels or the layout do not
            fit.
    """

    def __init__(
        self,
        modalities: ModalityLayout | Mapping[str, Mapping[str, Any]],
        variant: str | MiTVariant | Mapping[str, Any] = 'cmnext_b2',
        streams: Mapping[str, Sequence[str]] | None = None,
        extra_channels: int = 3,
        layout: str = 'official',
        drop_path_rate: float = 0.1,
        norm_cfg: dict | None = None,
        placeholder: str | None = None,
        pretrained: str | Mapping[str, Any] | None = None,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(modalities, streams, placeholder, pretrained, init_cfg)
        if layout not in _LAYOUTS:
            raise ValueError(
                f'layout={layout!r}, expected one of {_LAYOUTS}. Change `layout` of '
                'the backbone.'
            )
        size = cmnext_variant(variant)
        self.variant = variant
        self.layout = layout
        self.embed_dims = size.embed_dims
        rates = linear_drop_path(drop_path_rate, size.depths)
        self.rgb = MixTransformer(
            size, self.input.channels[0], drop_path=rates, norm_eps=_RGB_EPS
        )
        self.extra = ModuleList()
        self.fusions = ModuleList()
        if len(self.input.names) > 1:
            _check_channels(self.input, extra_channels)
            self.extra.extend(self._extra_stages(size, extra_channels, rates, norm_cfg))
            kind = dict(type='mmseg_xmodal.CMXFusion', norm_cfg=norm_cfg)
            cfgs = [dict(kind, num_heads=heads) for heads in size.num_heads]
            self.fusions = build_fusions(cfgs, size.embed_dims, 2)

    def _extra_stages(
        self,
        size: MiTVariant,
        width: int,
        rates: Sequence[Sequence[float]],
        norm_cfg: dict | None,
    ) -> Iterator[ExtraStage]:
        count = len(self.input.names) - 1
        for i, dim in enumerate(size.embed_dims):
            ratio = _MLP_RATIOS[min(i, len(_MLP_RATIOS) - 1)]
            yield ExtraStage(width, dim, i == 0, count, ratio, rates[i], norm_cfg)
            width = dim

    def init_weights(self) -> None:
        """The official initialisation, then the pretrained weights, if any.

        It is SegFormer's, but the variance of a depth-wise convolution is divided by
        its number of groups.
        """
        super().init_weights()
        if not self.init_cfg:
            segformer_init(self)
            for layer in self.modules():
                if isinstance(layer, nn.Conv2d) and layer.groups > 1:
                    layer.weight.data.mul_(layer.groups**-0.5)
        if self.pretrained is not None:
            self.init_report = initialise_streams(
                {self.input.names[0]: self.rgb}, self.pretrained, convert=convert_mit
            )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the fused map of every stage."""
        inputs, valid = self.input(x)
        if not len(self.extra):
            return self.rgb(inputs[0])
        rgb, extras = inputs[0], inputs[1:]
        outs: list[Tensor] = []
        for level, fusion in enumerate(self.fusions):
            rgb = self.rgb.stages[level](rgb)
            own, both = _validity(valid, rgb)
            feats, merged = self.extra[level](extras, own)
            (rgb, merged), fused = fusion([rgb, merged], both)
            outs.append(fused)
            if level + 1 < len(self.fusions):
                extras = self._onward(feats, merged)
        return tuple(outs)

    def _onward(self, feats: list[Tensor], merged: Tensor) -> list[Tensor]:
        """What the extra modalities are to the next stage."""
        if len(feats) == 1:
            return [merged]
        if self.layout == 'official':
            feats = [scramble(x) for x in feats]
        return [x + merged for x in feats]


def cmnext_variant(variant: str | MiTVariant | Mapping[str, Any]) -> MiTVariant:
    """Look a size up.

    Args:
        variant: See :class:`CMNeXt`.

    Raises:
        ValueError: If the name is unknown, or the fields do not fit.
    """
    if isinstance(variant, str):
        variant = CMNEXT_VARIANTS.get(variant, variant)
        if variant not in MIT_VARIANTS:
            raise ValueError(
                f'variant={variant!r} is not a CMNeXt size, expected one of '
                f'{[*CMNEXT_VARIANTS, *MIT_VARIANTS]}. Change `variant` of the '
                'backbone.'
            )
    return mit_variant(variant)


def _check_channels(streams: StreamInput, extra_channels: int) -> None:
    for name, channels in list(zip(streams.names, streams.channels, strict=True))[1:]:
        if channels not in (1, extra_channels):
            raise ValueError(
                f'CMNeXt has one convolution of extra_channels={extra_channels} for '
                f'all extra modalities, but {streams.describe(name)}, {channels} '
                f'channels in all, expected {extra_channels} or 1. Set '
                f'extra_channels={channels} in the backbone if all others have as many '
                '(or 1), or change `streams`.'
            )


def _validity(
    valid: list[Tensor] | None, like: Tensor
) -> tuple[list[Tensor] | None, list[Tensor] | None]:
    """Validity at the size of a map: of each extra, and of RGB and of any extra."""
    if valid is None:
        return None, None
    size = (like.shape[2], like.shape[3])
    rgb, *extras = (F.adaptive_avg_pool2d(v, size).to(like.dtype) for v in valid)
    return extras, [rgb, torch.cat(extras, 1).amax(1, keepdim=True)]
