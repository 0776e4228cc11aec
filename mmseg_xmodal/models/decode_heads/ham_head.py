"""The light Hamburger head of DFormer and DFormerv2 (from SegNeXt).

Papers: SegNeXt, 2022, https://arxiv.org/abs/2209.08575; DFormer, 2024,
https://arxiv.org/abs/2309.09668. Parameters and state dict are those of mmseg's
``LightHamHead`` (Apache-2.0), which this extends.

Differences: the bases of the NMF are fixed by default, so that evaluation gives one
answer and the head exports to ONNX (``bases='random'`` draws them as published).
Three that change no number: each level meets its part of ``squeeze`` at its own size,
before the resize; ``ham_out`` is applied to the bases, since what it maps is of rank R;
BN is folded in eval mode.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmseg.models.decode_heads.ham_head import LightHamHead
from mmseg.models.utils import resize
from torch import Tensor, nn

from mmseg_xmodal.registry import MODELS

from ..layers.nmf import NMF
from ..layers.resize_linear import (
    fold_norm,
    is_foldable,
    matrix_product,
    pointwise,
)
from ..layers.slices import is_plain
from ..layers.tokens import to_map, to_tokens


@MODELS.register_module()
class HamHead(LightHamHead):
    """Levels to one map, its NMF as a residual, classifier.

    Args:
        in_channels: Channels of the levels, the largest level first.
        channels: Of the map before the classifier (``decoder_embed_dim``).
        ham_channels: Channels of the NMF.
        ham_kwargs: As in ``LightHamHead``: ``MD_R`` (rank, 64), ``train_steps`` (6),
            ``eval_steps`` (7).
        in_index: Which maps of the backbone are the levels.
        bases: ``'fixed'`` or ``'random'``, see :class:`NMF`.
        seed: Of the fixed bases.
        norm_cfg: Norm layer; None = BN with eps 1e-3, with which DFormer trains and
            evaluates.
        kwargs: Of mmseg's ``BaseDecodeHead``, such as ``num_classes``.

    Shape:
        - input: maps (B, in_channels[i], h_i, w_i)
        - output: logits (B, out_channels, h_0, w_0), of the first level used

    Raises:
        ValueError: If ``bases`` is unknown, or ``ham_kwargs`` asks for ``MD_S`` > 1.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int = 512,
        *,
        ham_channels: int = 512,
        ham_kwargs: dict | None = None,
        in_index: Sequence[int] = (1, 2, 3),
        bases: str = 'fixed',
        seed: int = 0,
        norm_cfg: dict | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            ham_channels=ham_channels,
            ham_kwargs=ham_kwargs or {},
            in_channels=list(in_channels),
            channels=channels,
            in_index=list(in_index),
            norm_cfg=norm_cfg or dict(type='BN', eps=1e-3, requires_grad=True),
            **kwargs,
        )
        stock = self.hamburger.ham
        if stock.S != 1:
            raise ValueError(
                f'ham_kwargs has MD_S={stock.S}, expected 1. Change ham_kwargs of the '
                'decode head, or use the LightHamHead of mmseg.'
            )
        self.hamburger.ham = NMF(
            ham_channels, stock.R, stock.train_steps, stock.eval_steps, bases, seed
        )

    @property
    def nmf(self) -> NMF:
        """The factorisation; its ``set_bases`` and ``generator`` fix a draw."""
        return self.hamburger.ham

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return the logits at the size of the first level used."""
        burger = self.hamburger
        parts = (self.squeeze, burger.ham_in, burger.ham_out, self.align)
        if not is_plain(*(part.conv for part in parts)):
            # Layers that are more than their weights (LoRA): the published order.
            return super().forward(inputs).contiguous()
        feats = self._transform_inputs(inputs)
        x = self._enjoy(self._squeeze(feats))
        x = self._linear(self.align, x)
        return self.cls_seg(self.align.activate(x)).contiguous()

    def cls_seg(self, feat: Tensor) -> Tensor:
        """Classify each pixel, after dropout of whole channels."""
        if self.dropout is not None:
            feat = self.dropout(feat)
        return pointwise(self.conv_seg, feat)

    def _folded(self, part: Any) -> tuple[Tensor, Tensor | None, Any]:
        """Matrix and bias of a ``ConvModule``, and the norm that is left to apply."""
        weight, bias = part.conv.weight.flatten(1), part.conv.bias
        if not part.with_norm:
            return weight, bias, nn.Identity()
        if self.training or not is_foldable(part.norm, None):
            return weight, bias, part.norm
        (weight,), bias = fold_norm([weight], bias, part.norm)
        return weight, bias, nn.Identity()

    def _squeeze(self, feats: Sequence[Tensor]) -> Tensor:
        """Map each level at its own size, resize, add up, norm, ReLU."""
        weight, bias, norm = self._folded(self.squeeze)
        first, *rest = weight.split(self.in_channels, 1)
        size = (feats[0].shape[2], feats[0].shape[3])
        # A product of two matrices, which is no view: adding to a view in place makes
        # autograd copy the whole map, forwards and backwards.
        out = matrix_product(to_tokens(feats[0]).flatten(0, 1), first, bias)
        for feat, part in zip(feats[1:], rest, strict=True):
            level = F.linear(to_tokens(feat), part)
            level = resize(
                to_map(level, (feat.shape[2], feat.shape[3])),
                size,
                mode='bilinear',
                align_corners=self.align_corners,
            )
            out = out.add_(to_tokens(level).flatten(0, 1))
        out = out.view(len(feats[0]), -1, out.shape[1])
        return self.squeeze.activate(norm(to_map(out, size)))

    def _linear(self, part: Any, x: Tensor) -> Tensor:
        """1x1 convolution and norm of a ``ConvModule``."""
        weight, bias, norm = self._folded(part)
        size = (x.shape[2], x.shape[3])
        return norm(to_map(F.linear(to_tokens(x), weight, bias), size))

    def _enjoy(self, x: Tensor) -> Tensor:
        """Add the factorised map, ReLU; ``ham_out`` maps the bases, not their product.

        Shape:
            - x: (B, ham_channels, H, W)
            - output: as ``x``
        """
        size = (x.shape[2], x.shape[3])
        tokens = to_tokens(x)
        ham_in = self.hamburger.ham_in.conv
        source = matrix_product(
            tokens.flatten(0, 1), ham_in.weight.flatten(1), ham_in.bias
        )
        coef, bases = self.nmf.factors(source.relu_().view_as(tokens))
        weight, bias, norm = self._folded(self.hamburger.ham_out)
        mixed = (weight @ bases).transpose(1, 2)
        if isinstance(norm, nn.Identity):
            out = torch.baddbmm(tokens, coef, mixed)
            out = out if bias is None else out.add_(bias)
            return to_map(out.relu_(), size)
        ham = coef @ mixed
        ham = ham if bias is None else ham + bias
        return (x + norm(to_map(ham, size))).relu_()
