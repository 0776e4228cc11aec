"""What all heads of a multi-task model have in common.

The segmentor (:class:`MultiTaskEncoderDecoder`) hands each head the features of the
samples that are labelled for its task, and puts what the head predicts into the data
samples. A head knows one field of truth and the fields that it predicts.
"""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from mmengine.model import BaseModule
from mmengine.structures import BaseDataElement
from mmseg.structures import SegDataSample
from torch import Tensor
from torch.nn import functional as F


class TaskHead(BaseModule, metaclass=ABCMeta):
    """One task on a pyramid of shared features.

    Args:
        in_channels: Channels of the maps that the head reads.
        in_index: Which maps of the pyramid these are, the largest first.
        target: Field of the data sample that holds the truth.
        init_cfg: As in mmengine.

    Raises:
        ValueError: If ``in_channels`` and ``in_index`` differ in length.
    """

    # Whether the head predicts a map, which sliding windows are put together from.
    dense: ClassVar[bool] = False

    def __init__(
        self,
        in_channels: Sequence[int],
        in_index: Sequence[int] = (0, 1, 2, 3),
        target: str = '',
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if len(in_channels) != len(in_index):
            raise ValueError(
                f'{type(self).__name__} has in_channels={tuple(in_channels)} and '
                f'in_index={tuple(in_index)}, expected one entry each per map. Change '
                'the head in task_heads.'
            )
        self.in_channels = tuple(in_channels)
        self.in_index = tuple(in_index)
        self.target = target

    def select(self, feats: Sequence[Tensor]) -> list[Tensor]:
        """The maps that the head reads.

        Raises:
            ValueError: If the pyramid has too few maps, or one has other channels.
        """
        widths = [feat.shape[1] for feat in feats]
        fits = max(self.in_index) < len(feats) and all(
            widths[i] == c for i, c in zip(self.in_index, self.in_channels, strict=True)
        )
        if not fits:
            raise ValueError(
                f'{type(self).__name__} got maps of {widths} channels, expected '
                f'{list(self.in_channels)} at in_index={list(self.in_index)}. Change '
                'in_channels or in_index of the head in task_heads.'
            )
        return [feats[i] for i in self.in_index]

    def has_truth(self, sample: SegDataSample) -> bool:
        """Whether the sample is labelled for this task."""
        return self.target in sample

    @abstractmethod
    def loss(
        self,
        feats: Sequence[Tensor],
        data_samples: Sequence[SegDataSample],
        train_cfg: Mapping[str, Any] | None = None,
    ) -> dict[str, Tensor]:
        """Losses of a batch whose samples are all labelled.

        Returns:
            Terms that are added up (their names contain ``loss``) and others that are
            only logged. Finite also where every pixel is ignored.
        """

    @abstractmethod
    def predict(
        self,
        feats: Sequence[Tensor],
        batch_img_metas: Sequence[Mapping[str, Any]],
        test_cfg: Mapping[str, Any] | None = None,
    ) -> Any:
        """Predict a batch.

        Returns:
            One dict per image, name of a field of the data sample to its value, in the
            coordinates of the original image (padding, flip and resize undone). A
            :class:`DenseTaskHead` returns a map instead.
        """


class DenseTaskHead(TaskHead):
    """A task whose prediction is a map.

    Args:
        out_channels: Channels of the predicted map.
        align_corners: As in ``F.interpolate``.
        kwargs: As for :class:`TaskHead`.
    """

    dense = True

    def __init__(
        self, out_channels: int, align_corners: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.out_channels = out_channels
        self.align_corners = align_corners

    @abstractmethod
    def forward(self, feats: Sequence[Tensor]) -> Tensor:
        """Raw output at the head's own resolution, (B, out_channels, h, w)."""

    @abstractmethod
    def loss_of(
        self, output: Tensor, data_samples: Sequence[SegDataSample]
    ) -> dict[str, Tensor]:
        """Losses of a raw output, of whatever resolution, against the truth.

        Task interactions supervise their intermediate predictions with it.
        """

    def activate(self, output: Tensor) -> Tensor:
        """From raw output to what windows and views are averaged over."""
        return output

    @abstractmethod
    def finish(
        self, output: Tensor, img_meta: Mapping[str, Any]
    ) -> dict[str, BaseDataElement]:
        """Fields of the data sample from one activated map.

        Padding, flip and resize are undone *in the picture plane* already; values that
        depend on them (metres, directions) are corrected here.

        Shape:
            - output: (out_channels, H, W), the size of the original image
        """

    def loss(
        self,
        feats: Sequence[Tensor],
        data_samples: Sequence[SegDataSample],
        train_cfg: Mapping[str, Any] | None = None,
    ) -> dict[str, Tensor]:
        """See :meth:`TaskHead.loss`."""
        return self.loss_of(self(feats), data_samples)

    def predict(
        self,
        feats: Sequence[Tensor],
        batch_img_metas: Sequence[Mapping[str, Any]],
        test_cfg: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """Activated map at the size of the network's input.

        Shape:
            - output: (B, out_channels, H, W)
        """
        meta = batch_img_metas[0]
        # As mmseg's BaseDecodeHead.predict_by_feat chooses it.
        shape = meta['img_shape']
        if not isinstance(shape, torch.Size) and 'pad_shape' in meta:
            shape = meta['pad_shape']
        size = (int(shape[0]), int(shape[1]))
        output = self.activate(self(feats))
        return F.interpolate(
            output, size, mode='bilinear', align_corners=self.align_corners
        )
