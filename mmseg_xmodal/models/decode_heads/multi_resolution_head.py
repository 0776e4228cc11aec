"""One decode head at two resolutions, and the attention that chooses between them.

Paper: HRDA, 2022, https://arxiv.org/abs/2204.13132. Official code:
https://github.com/lhoyer/MIC (Apache-2.0). Clean room, nothing copied; the names of the
two parts are the official ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.model import BaseModule
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.losses import accuracy
from mmseg.structures import SegDataSample
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers.resolutions import (
    CropBox,
    FusedLogits,
    ResolutionFeatures,
    average_windows,
    fuse_resolutions,
)


class MultiResolutionHead(BaseDecodeHead):
    """A segmentation head for the small picture and for the detail alike.

    Losses, ignored class, threshold and number of classes are those of ``head``. Its
    ``sampler`` chooses (or weighs) the pixels once, by the fused prediction; the loss
    of the detail takes the weights of its crop.

    Args:
        head: Any head that gives one map of logits and has mmseg's own loss.
        scale_attention: Head that gives the logits of the share of the detail, for each
            class or one for all.
        detail_loss_weight: Share of the loss that goes to the detail alone, in [0, 1).

    Shape:
        - input: :class:`ResolutionFeatures`
        - output: logits (B, out_channels, h, w), at the stride of ``head`` in the
          picture at full resolution

    Raises:
        ValueError: If a part does not fit.
    """

    def __init__(
        self,
        head: BaseDecodeHead,
        scale_attention: BaseDecodeHead,
        detail_loss_weight: float = 0.1,
    ) -> None:
        _check_parts(head, scale_attention)
        if not 0 <= detail_loss_weight < 1:
            raise ValueError(
                f'detail_loss_weight is {detail_loss_weight}, expected a number in '
                '[0, 1). Change it in the model.'
            )
        # Of the base class only its interface: there is no classifier here.
        BaseModule.__init__(self)
        self.head, self.scale_attention = head, scale_attention
        self.detail_loss_weight = detail_loss_weight
        for name in (
            'in_channels',
            'in_index',
            'input_transform',
            'channels',
            'num_classes',
            'out_channels',
            'threshold',
            'ignore_index',
            'align_corners',
            'sampler',
        ):
            setattr(self, name, getattr(head, name))

    @property
    def loss_decode(self) -> nn.Module:
        """Losses of ``head``; as a part of this module too, its keys were double."""
        return self.head.loss_decode

    def decode(self, feats: ResolutionFeatures) -> FusedLogits:
        """Logits of both resolutions and what they are fused to.

        The order of the three calls is the official one: it decides the running
        statistics of BN and the draws of dropout.

        Raises:
            TypeError: If ``feats`` are not of two resolutions, or a head gives no map.
            ValueError: If a crop does not lie on the cells of the maps.
        """
        if not isinstance(feats, ResolutionFeatures):
            raise TypeError(
                f'MultiResolutionHead got features of type {type(feats).__name__}, '
                'expected the ResolutionFeatures that extract_feat of '
                'MultiResolutionSegmentor gives. Hand them on as they are.'
            )
        context = self._run(self.head, feats.context)
        detail = self._run(self.head, feats.detail)
        attention = self._run(self.scale_attention, feats.context)
        box = feats.boxes[0]
        if len(feats.boxes) > 1:
            detail = average_windows(detail, feats.boxes, feats.padded)
            box = CropBox.whole(feats.padded)
        return fuse_resolutions(
            context, detail, attention, box, feats.padded, self.align_corners
        )

    @staticmethod
    def _run(head: BaseDecodeHead, maps: tuple[Tensor, ...]) -> Tensor:
        out = head(maps)
        if not isinstance(out, Tensor):
            raise TypeError(
                f'{type(head).__name__} gives a {type(out).__name__}, expected one map '
                'of logits. Change decode_head of the model.'
            )
        return out

    def forward(self, inputs: ResolutionFeatures) -> Tensor:
        """Return the fused logits."""
        return self.decode(inputs).fused

    def loss(
        self,
        inputs: ResolutionFeatures,
        batch_data_samples: Sequence[SegDataSample],
        train_cfg: Mapping[str, Any] | None = None,
    ) -> dict[str, Tensor]:
        """Losses of the fused prediction and, as ``detail_*``, of the detail."""
        label = self._stack_batch_gt(batch_data_samples)
        return self.losses_of(self.decode(inputs), label)

    def losses_of(
        self, maps: FusedLogits, label: Tensor, weight: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Losses of predictions that are there already.

        Args:
            maps: The predictions.
            label: Class ids or ``ignore_index``.
            weight: Of the pixels, at least 0; multiplies that of the sampler.

        Shape:
            - label: (B, 1, H, W), the picture without padding
            - weight: (B, H, W)
        """
        fused = self._at_pixels(maps.fused, CropBox.whole(maps.size), label)
        if self.sampler is not None:
            chosen = self.sampler.sample(fused, label)
            weight = chosen if weight is None else weight * chosen
        share = self.detail_loss_weight
        losses = self._losses(fused, label, weight, 1 - share)
        if share:
            part = maps.box.cut(label)
            detail = self._at_pixels(maps.detail, maps.box, part)
            of_part = None if weight is None else maps.box.cut(weight)
            for name, value in self._losses(detail, part, of_part, share).items():
                losses[f'detail_{name}'] = value
        return losses

    def _at_pixels(self, logits: Tensor, box: CropBox, like: Tensor) -> Tensor:
        """Resize to the pixels of a crop, and take the padding off."""
        logits = F.interpolate(
            logits, box.size, mode='bilinear', align_corners=self.align_corners
        )
        return logits[..., : like.shape[-2], : like.shape[-1]]

    def _losses(
        self, logits: Tensor, label: Tensor, weight: Tensor | None, factor: float
    ) -> dict[str, Tensor]:
        """As ``BaseDecodeHead.loss_by_feat``, with given weights of the pixels."""
        label = label.squeeze(1)
        modules: Any = self.loss_decode
        many = isinstance(modules, nn.ModuleList)
        losses: dict[str, Tensor] = {}
        for module in modules if many else [modules]:
            value = factor * module(
                logits, label, weight=weight, ignore_index=self.ignore_index
            )
            losses[module.loss_name] = losses.get(module.loss_name, 0) + value
        losses['acc_seg'] = accuracy(logits, label, ignore_index=self.ignore_index)
        return losses

    def predict(
        self,
        inputs: ResolutionFeatures,
        batch_img_metas: Sequence[Mapping[str, Any]],
        test_cfg: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """Fused logits at the size of the picture.

        Shape:
            - output: (B, out_channels, H, W)
        """
        logits = F.interpolate(
            self.forward(inputs),
            inputs.padded,
            mode='bilinear',
            align_corners=self.align_corners,
        )
        return logits[..., : inputs.size[0], : inputs.size[1]]


def _check_parts(head: Any, scale_attention: Any) -> None:
    for name, part in (('decode_head', head), ('scale_attention', scale_attention)):
        if not isinstance(part, BaseDecodeHead):
            raise ValueError(
                f'{name} is a {type(part).__name__}, expected a head of mmseg '
                '(BaseDecodeHead). Change it in the model.'
            )
    own = [
        name
        for name in ('loss', 'loss_by_feat')
        if getattr(type(head), name) is not getattr(BaseDecodeHead, name)
    ]
    if own:
        raise ValueError(
            f'decode_head is a {type(head).__name__}, which computes its loss in a way '
            f'of its own ({", ".join(own)}) that would be left out here. Take a head '
            'with the loss of BaseDecodeHead.'
        )
    if scale_attention.out_channels not in (1, head.out_channels):
        raise ValueError(
            f'scale_attention gives {scale_attention.out_channels} channels, expected '
            f'1 or {head.out_channels}, those of decode_head. Change its num_classes.'
        )
