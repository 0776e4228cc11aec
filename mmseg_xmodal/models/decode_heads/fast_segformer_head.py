"""SegFormer's decoder of mmseg, with the fusion convolution in the cheap order.

Paper: SegFormer, 2021, https://arxiv.org/abs/2105.15203. Stock form: mmseg's
``SegformerHead`` (Apache-2.0), from which this one inherits its parameters.

Difference that changes no number: each level's slice of ``fusion_conv`` acts at the
level's own size and the results are upsampled and added, instead of upsampling and
concatenating all levels first. What comes before (convolution, BN, ReLU per level) is
not linear and stays.
"""

from __future__ import annotations

from collections.abc import Sequence

from mmseg.models.decode_heads.segformer_head import SegformerHead
from torch import Tensor, nn

from mmseg_xmodal.registry import MODELS

from ..layers.resize_linear import (
    classify_sum,
    fold_norm,
    is_foldable,
    pointwise,
    sum_of_levels,
)
from ..layers.slices import is_plain


@MODELS.register_module()
class FastSegformerHead(SegformerHead):
    """Drop-in for ``SegformerHead``: same arguments, state dict and numbers.

    Shape:
        - input: maps (B, in_channels[i], h_i, w_i), the largest first.
        - output: logits (B, out_channels, h_0, w_0)
    """

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return the logits at the size of the first level."""
        fusion = self.fusion_conv
        if not is_plain(fusion.conv) or fusion._forward_hooks:
            return super().forward(inputs)
        feats = self._transform_inputs(inputs)
        levels = [conv(x) for conv, x in zip(self.convs, feats, strict=True)]
        weights = fusion.conv.weight.flatten(1).split(self.channels, 1)
        resize = (self.align_corners, self.interpolate_mode)
        relu = fusion.with_activation and type(fusion.activate) is nn.ReLU
        foldable = fusion.with_norm and is_foldable(fusion.norm, self.dropout)
        if not self.training and relu and foldable:
            weights, bias = fold_norm(weights, fusion.conv.bias, fusion.norm)
            return classify_sum(
                levels, weights, bias, self.conv_seg, *resize
            ).contiguous()
        x = sum_of_levels(levels, weights, fusion.conv.bias, *resize)
        if fusion.with_norm:
            x = fusion.norm(x)
        if fusion.with_activation:
            x = fusion.activate(x)
        if self.dropout is not None:
            x = self.dropout(x)
        return pointwise(self.conv_seg, x).contiguous()
