"""Any segmentation head of mmseg as the head of a further task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.structures import PixelData
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS as MMSEG_MODELS
from mmseg.structures import SegDataSample
from torch import Tensor

from mmseg_xmodal.registry import MODELS

from ..layers.logit_probabilities import is_score_head, logit_probabilities
from .task_head import DenseTaskHead


@MODELS.register_module()
class SegTaskHead(DenseTaskHead):
    """A second segmentation of the same image, such as land cover beside water.

    mmseg's heads read ``gt_sem_seg``; this one hands its head samples in which that is
    the field ``target``. Losses, samplers and windows work as for a ``decode_head``:
    logits are averaged over windows.

    ``MultiTaskEncoderDecoder`` makes one of every plain mmseg head in ``task_heads``::

        task_heads=dict(landcover=dict(type='FCNHead', in_channels=32, in_index=3, ...))

    Args:
        head: Config of the mmseg head.
        target: Field of the data sample with the truth, ``'gt_...'``. The prediction is
            the field ``'pred_...'``: its ``data`` are labels (1, H, W) int64, its
            ``scores`` probabilities (C, H, W), of one channel for a binary head.
        init_cfg: As in mmengine.

    Shape:
        - input: what ``head`` reads.
        - output: logits (B, out_channels, h, w)

    Raises:
        ValueError: If ``target`` does not begin with ``gt_``.
        TypeError: If ``head`` is not a segmentation head.
    """

    def __init__(
        self, head: dict, target: str, init_cfg: dict | list | None = None
    ) -> None:
        if not target.startswith('gt_') or target == 'gt_':
            raise ValueError(
                f"SegTaskHead has target={target!r}, expected 'gt_<name>', the field "
                'with the truth. Change the head in task_heads.'
            )
        built = MMSEG_MODELS.build(head)
        wanted = ('loss', 'predict', 'out_channels', 'align_corners')
        missing = [name for name in wanted if not hasattr(built, name)]
        if missing:
            raise TypeError(
                f'SegTaskHead ({target!r}) has a head of type {type(built).__name__}, '
                f'which has no {missing}, expected a decode head of mmseg. Change the '
                'head in task_heads.'
            )
        super().__init__(
            out_channels=built.out_channels,
            align_corners=built.align_corners,
            # The head selects its maps itself.
            in_channels=(),
            in_index=(),
            target=target,
            init_cfg=init_cfg,
        )
        self.head = built

    @property
    def prediction(self) -> str:
        """Field of the data sample that is predicted."""
        return 'pred_' + self.target.removeprefix('gt_')

    def forward(self, feats: Sequence[Tensor]) -> Tensor:
        """Logits at the head's own resolution."""
        return self.head(feats)

    def loss(
        self,
        feats: Sequence[Tensor],
        data_samples: Sequence[SegDataSample],
        train_cfg: Mapping[str, Any] | None = None,
    ) -> dict[str, Tensor]:
        """The head's own losses, against ``target``."""
        return self.head.loss(feats, self._swapped(data_samples), train_cfg)

    def loss_of(
        self, output: Tensor, data_samples: Sequence[SegDataSample]
    ) -> dict[str, Tensor]:
        """Losses of logits, against ``target``.

        Raises:
            TypeError: If the head is none of those that compare a map with labels.
        """
        if not isinstance(self.head, BaseDecodeHead):
            raise TypeError(
                f'{type(self.head).__name__} of the target {self.target!r} is no '
                'BaseDecodeHead, expected one: an intermediate map of a task '
                'interaction is compared with labels. Change the head in task_heads.'
            )
        return self.head.loss_by_feat(output, self._swapped(data_samples))

    def predict(
        self,
        feats: Sequence[Tensor],
        batch_img_metas: Sequence[Mapping[str, Any]],
        test_cfg: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """Logits at the size of the network's input."""
        return self.head.predict(feats, batch_img_metas, test_cfg)

    def finish(
        self, output: Tensor, img_meta: Mapping[str, Any]
    ) -> dict[str, PixelData]:
        """Labels and probabilities of one map of logits, or of scores."""
        if output.shape[0] == 1:
            return self.prediction_of(output.sigmoid())
        scores = logit_probabilities(output[None], is_score_head(self.head))[0]
        return self.prediction_of(scores)

    def prediction_of(self, scores: Tensor) -> dict[str, PixelData]:
        """The field of the data sample from probabilities, such as a mean over views.

        Shape:
            - scores: (out_channels, H, W), in [0, 1]
        """
        if scores.shape[0] > 1:
            label = scores.argmax(dim=0, keepdim=True)
        else:
            label = (scores > self.head.threshold).to(torch.int64)
        return {self.prediction: PixelData(data=label, scores=scores)}

    def _swapped(self, samples: Sequence[SegDataSample]) -> list[SegDataSample]:
        """New samples around the same tensors, with the target as ``gt_sem_seg``."""
        swapped = []
        for sample in samples:
            own = type(sample)(metainfo=sample.metainfo)
            own.set_data(dict(sample.items()))
            own.gt_sem_seg = sample.get(self.target)
            swapped.append(own)
        return swapped
