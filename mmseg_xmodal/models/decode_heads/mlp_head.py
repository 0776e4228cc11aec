"""The MLP decoder that CMX, CMNeXt and their successors share.

Difference that changes no number: the published form upsamples four maps of E channels,
concatenates them and convolves 4E to E at full size. Here each level's ``linear_c`` and
its slice of ``linear_fuse`` are one matrix, applied at the level's own size (see
:mod:`mmseg_xmodal.models.layers.resize_linear`); in eval mode the BN is folded in too.
The parameters, and so the state dict, are the published ones.
"""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers.resize_linear import (
    classify_sum,
    fold_norm,
    is_foldable,
    pointwise,
    sum_of_levels,
)
from ..layers.slices import is_plain
from ..layers.tokens import to_map, to_tokens


class _Projection(nn.Module):
    """Holds a linear layer under its published key."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.proj = nn.Linear(in_channels, channels)


class MLPDecodeHead(BaseDecodeHead, metaclass=ABCMeta):
    """MLP decoder: four levels to E channels, fused by a 1x1 convolution, BN, ReLU.

    It differs from mmseg's ``SegformerHead``: no norm nor activation per level, and
    the levels are concatenated from the last to the first.

    A subclass makes ``linear_fuse`` in :meth:`_build_fuse`, under its published keys,
    says where convolution and norm are in it, and has the official initialisation.

    Args:
        in_channels: Channels of the four levels.
        channels: E, 512 in the paper.
        norm_cfg: Norm layer; None = BN.
        in_index: Which maps of the backbone are the levels.
        init_cfg: As in mmengine; None = the official one.
        kwargs: Of mmseg's ``BaseDecodeHead``, such as ``num_classes``.

    Shape:
        - input: four maps (B, in_channels[i], h_i, w_i), the largest first.
        - output: logits (B, out_channels, h_0, w_0)

    Raises:
        ValueError: If there are not four levels.
    """

    official_init: ClassVar[list[dict[str, Any]]]

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int = 512,
        *,
        norm_cfg: dict | None = None,
        in_index: Sequence[int] = (0, 1, 2, 3),
        init_cfg: dict | list | None = None,
        **kwargs: Any,
    ) -> None:
        if len(in_channels) != 4 or len(in_index) != 4:
            raise ValueError(
                f'{type(self).__name__} has in_channels={tuple(in_channels)} and '
                f'in_index={tuple(in_index)}, expected four of each. Change '
                'decode_head in the config.'
            )
        super().__init__(
            in_channels=list(in_channels),
            channels=channels,
            in_index=list(in_index),
            input_transform='multiple_select',
            norm_cfg=norm_cfg or dict(type='BN', requires_grad=True),
            init_cfg=init_cfg or self.official_init,
            **kwargs,
        )
        # The published name of the classifier is linear_pred.
        del self.conv_seg
        for i, width in enumerate(in_channels):
            self.add_module(f'linear_c{i + 1}', _Projection(width, channels))
        self.linear_fuse = self._build_fuse(channels)
        self.linear_pred = nn.Conv2d(channels, self.out_channels, 1)

    @abstractmethod
    def _build_fuse(self, channels: int) -> nn.Module:
        """Make the 1x1 convolution from 4E to E, its norm and its ReLU."""

    @property
    @abstractmethod
    def fuse_layers(self) -> tuple[Any, nn.Module]:
        """The convolution and the norm of ``linear_fuse``."""

    def _matrices(self) -> tuple[list[Tensor], Tensor]:
        """One matrix per level, and one bias: ``linear_fuse`` after ``linear_c``.

        The products are small: under AMP they keep full precision.
        """
        fuse = self.fuse_layers[0]
        slices = fuse.weight.flatten(1).chunk(4, 1)[::-1]
        layers = [getattr(self, f'linear_c{i + 1}').proj for i in range(4)]
        pairs = list(zip(slices, layers, strict=True))
        with torch.autocast(fuse.weight.device.type, enabled=False):
            weights = [part @ layer.weight for part, layer in pairs]
            biases = [part @ layer.bias for part, layer in pairs]
        bias = torch.stack(biases).sum(0)
        return weights, bias if fuse.bias is None else fuse.bias + bias

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return the logits at the size of the first level."""
        feats = self._transform_inputs(inputs)
        projections = [getattr(self, f'linear_c{i + 1}').proj for i in range(4)]
        conv, norm = self.fuse_layers
        if not is_plain(conv, *projections):
            return self._published(feats, projections)
        weights, bias = self._matrices()
        if is_foldable(norm, self.dropout) and not self.training:
            weights, bias = fold_norm(weights, bias, norm)
            return classify_sum(
                feats, weights, bias, self.linear_pred, self.align_corners
            ).contiguous()
        x = sum_of_levels(feats, weights, bias, self.align_corners)
        return self.cls_seg(F.relu(norm(x), inplace=True)).contiguous()

    def _published(self, feats: Sequence[Tensor], projections: list) -> Tensor:
        """The published order, for layers that are more than their weights (LoRA)."""
        size = feats[0].shape[2:]
        levels = [
            F.interpolate(
                to_map(proj(to_tokens(feat)), (feat.shape[2], feat.shape[3])),
                size,
                mode='bilinear',
                align_corners=self.align_corners,
            )
            for feat, proj in zip(feats, projections, strict=True)
        ]
        return self.cls_seg(self.linear_fuse(torch.cat(levels[::-1], 1))).contiguous()

    def cls_seg(self, feat: Tensor) -> Tensor:
        """Classify each pixel, after dropout of whole channels."""
        if self.dropout is not None:
            feat = self.dropout(feat)
        return pointwise(self.linear_pred, feat)
