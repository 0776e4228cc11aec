"""Training and inference at two resolutions: HRDA, around any backbone and head.

Paper: HRDA, 2022, https://arxiv.org/abs/2204.13132. Official code:
https://github.com/lhoyer/MIC (Apache-2.0). Clean room, nothing copied.

Differences: crops are values that are handed on, with no state in a class or head;
pictures of any size are padded to whole cells, and the padding is taken off again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmseg.models.segmentors import EncoderDecoder
from mmseg.registry import MODELS as MMSEG_MODELS
from mmseg.structures import SegDataSample
from torch import Tensor
from torch.nn import functional as F

from mmseg_xmodal.registry import MODELS

from ..decode_heads.multi_resolution_head import MultiResolutionHead
from ..layers.resolutions import (
    CropBox,
    ResolutionFeatures,
    draw_crop,
    slide_boxes,
)


@MODELS.register_module()
class MultiResolutionSegmentor(EncoderDecoder):
    """An ``EncoderDecoder`` that sees a small picture whole and its detail in crops.

    The context is the whole picture, made smaller; the detail is one random crop at
    full resolution in training, and overlapping windows over everything in inference.
    One backbone and one head serve both. An attention, read off the context, chooses
    between the two predictions for each class and place.

    ``extract_feat`` gives :class:`ResolutionFeatures`, which ``decode_head`` takes. As
    a sequence they are the context's maps; auxiliary heads and feature distances read
    those. The backbone is called twice, first with the small picture.

    Args:
        backbone: As in ``EncoderDecoder``.
        decode_head: Any head that gives one map of logits and has mmseg's own loss.
        scale_attention: Head for the share of the detail, such as ``DAFormerHead`` with
            ``fusion='conv1'``. ``num_classes`` defaults to the channels of
            ``decode_head`` (a share for each class), ``num_classes=1`` is one for all.
        detail_size: Height and width of crops and windows, in pixels.
        detail_stride: Steps between windows; None = half of ``detail_size``.
        context_scale: Size of the small picture, as a share of each side.
        crop_divisor: Crops lie at multiples of this many pixels: a multiple of the
            stride of the head divided by ``context_scale``.
        detail_loss_weight: Share of the loss that goes to the detail alone, in [0, 1).
        rng: numpy's generator for the crops; None = its global one.
        kwargs: Of ``EncoderDecoder``, such as ``neck``, ``auxiliary_head``.

    Shape:
        - inputs: (B, C, H, W)
        - logits: (B, out_channels, H, W)

    Raises:
        ValueError: If a size, a scale or a head does not fit.
    """

    decode_head: Any

    def __init__(
        self,
        backbone: dict,
        decode_head: dict,
        scale_attention: Mapping[str, Any],
        detail_size: tuple[int, int] = (512, 512),
        detail_stride: tuple[int, int] | None = None,
        context_scale: float = 0.5,
        crop_divisor: int = 8,
        detail_loss_weight: float = 0.1,
        rng: np.random.RandomState | None = None,
        **kwargs: Any,
    ) -> None:
        test_cfg = {'mode': 'whole', **(kwargs.get('test_cfg') or {})}
        kwargs['test_cfg'] = ConfigDict(test_cfg)
        super().__init__(backbone=backbone, decode_head=decode_head, **kwargs)
        self.detail_size = _pair('detail_size', detail_size)
        half = (self.detail_size[0] // 2, self.detail_size[1] // 2)
        self.detail_stride = (
            half if detail_stride is None else _pair('detail_stride', detail_stride)
        )
        self.context_scale, self.crop_divisor = context_scale, crop_divisor
        self._check_sizes()
        self.rng = rng
        self.decode_head = MultiResolutionHead(
            self.decode_head,
            _build_attention(scale_attention, self.decode_head.out_channels),
            detail_loss_weight,
        )

    def _check_sizes(self) -> None:
        divisor, scale = self.crop_divisor, self.context_scale
        if not (0 < scale < 1 and divisor > 0 and float(divisor * scale).is_integer()):
            raise ValueError(
                f'context_scale={scale} and crop_divisor={divisor}, expected a scale '
                'in (0, 1) and a divisor whose product with it is a whole number. '
                'Change them in the model.'
            )
        sides = {*self.detail_size, *self.detail_stride}
        if any(side <= 0 or side % divisor for side in sides):
            raise ValueError(
                f'detail_size={self.detail_size} and detail_stride='
                f'{self.detail_stride}, expected multiples of crop_divisor={divisor}. '
                'Change them in the model.'
            )
        # Refuses gaps now, not at the first test.
        slide_boxes(self.detail_size, self.detail_size, self.detail_stride)

    # Features

    def draw_crop(self, inputs: Tensor) -> CropBox:
        """Draw the crop of a batch from ``rng``: row first, then column.

        Shape:
            - inputs: (B, C, H, W)
        """
        size = self._padded_size(inputs)
        return draw_crop(size, self.detail_size, self.crop_divisor, self.rng)

    def windows(self, inputs: Tensor) -> tuple[CropBox, ...]:
        """The windows of inference, row by row.

        Shape:
            - inputs: (B, C, H, W)
        """
        size = self._padded_size(inputs)
        return slide_boxes(size, self.detail_size, self.detail_stride)

    def _padded_size(self, inputs: Tensor) -> tuple[int, int]:
        height, width = (-(-side // self.crop_divisor) for side in inputs.shape[2:])
        return height * self.crop_divisor, width * self.crop_divisor

    def extract_feat(
        self, inputs: Tensor, boxes: Sequence[CropBox] | None = None
    ) -> ResolutionFeatures:
        """Maps of the small picture and of crops.

        Args:
            inputs: The batch.
            boxes: The crops, of one size and at multiples of ``crop_divisor``; None =
                one random crop in training mode while gradients are recorded, else the
                windows.

        Shape:
            - inputs: (B, C, H, W)

        Raises:
            ValueError: If a crop does not lie within the padded picture.
        """
        if boxes is None:
            train = self.training and torch.is_grad_enabled()
            boxes = [self.draw_crop(inputs)] if train else self.windows(inputs)
        size = (inputs.shape[2], inputs.shape[3])
        padded = self._padded_size(inputs)
        self._check_boxes(boxes, padded)
        if padded != size:
            # 0 is the mean: what preprocessors pad with.
            sides = (0, padded[1] - size[1], 0, padded[0] - size[0])
            inputs = F.pad(inputs, sides)
        small = F.interpolate(
            inputs,
            tuple(round(side * self.context_scale) for side in padded),
            mode='bilinear',
            align_corners=self.align_corners,
        )
        context = tuple(super().extract_feat(small))
        crops = torch.cat([box.cut(inputs) for box in boxes])
        detail = tuple(super().extract_feat(crops))
        return ResolutionFeatures(context, detail, tuple(boxes), padded, size)

    def _check_boxes(self, boxes: Sequence[CropBox], padded: tuple[int, int]) -> None:
        fits = boxes and all(
            box.bottom <= padded[0]
            and box.right <= padded[1]
            and box.size == boxes[0].size
            for box in boxes
        )
        if not fits:
            raise ValueError(
                f'The crops are {list(boxes)}, expected at least one, all of one size '
                f'and within the (padded) picture of {padded}. Change `boxes`.'
            )

    # Training

    def loss(
        self,
        inputs: Tensor,
        data_samples: Sequence[SegDataSample],
        box: CropBox | None = None,
    ) -> dict[str, Tensor]:
        """Losses of the fused prediction, of the detail, and of auxiliary heads.

        Args:
            inputs: The batch.
            data_samples: With their labels.
            box: The crop; None = draw one.
        """
        box = self.draw_crop(inputs) if box is None else box
        feats = self.extract_feat(inputs, [box])
        losses = self._decode_head_forward_train(feats, data_samples)
        if self.with_auxiliary_head:
            losses.update(self._auxiliary_head_forward_train(feats, data_samples))
        return losses

    # Prediction

    def encode_decode(
        self, inputs: Tensor, batch_img_metas: Sequence[Mapping[str, Any]]
    ) -> Tensor:
        """Fused logits at the size of the input; no draw, whatever the mode.

        Shape:
            - output: (B, out_channels, H, W)
        """
        feats = self.extract_feat(inputs, self.windows(inputs))
        return self.decode_head.predict(feats, batch_img_metas, self.test_cfg)

    def _forward(
        self, inputs: Tensor, data_samples: Sequence[SegDataSample] | None = None
    ) -> Tensor:
        """Fused logits at the stride of the head; no draw, whatever the mode."""
        return self.decode_head(self.extract_feat(inputs, self.windows(inputs)))


def _pair(name: str, value: Sequence[int]) -> tuple[int, int]:
    if not isinstance(value, Sequence) or len(value) != 2:
        raise ValueError(
            f'MultiResolutionSegmentor has {name}={value}, expected height and width '
            'in pixels, such as (512, 512). Change it in the model.'
        )
    return int(value[0]), int(value[1])


def _build_attention(cfg: Mapping[str, Any], channels: int) -> Any:
    """Build the head of the attention; its channels are shares, not classes."""
    cfg = dict(cfg)
    cfg.setdefault('num_classes', channels)
    # Said in full, since mmseg warns where a head looks like that of a binary task.
    cfg.setdefault('out_channels', cfg['num_classes'])
    if cfg['out_channels'] == 1:
        cfg.setdefault('threshold', 0.5)
    return MMSEG_MODELS.build(cfg)
