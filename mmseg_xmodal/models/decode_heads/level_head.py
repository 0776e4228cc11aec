"""What the native heads of dense tasks share: a light decoder and a list of losses."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.structures import BaseDataElement, PixelData
from mmseg.structures import SegDataSample
from torch import Tensor, nn
from torch.nn import functional as F

from mmseg_xmodal.registry import MODELS

from ..layers.level_decoder import LevelDecoder
from .task_head import DenseTaskHead


class LevelHead(DenseTaskHead, metaclass=ABCMeta):
    """A :class:`LevelDecoder`, and losses from the config.

    A loss is called as ``loss(pred, target)`` and has a ``loss_name``; losses of the
    same name are added up.

    Args:
        in_channels: Channels of the levels.
        out_channels: Channels of the predicted map.
        loss_decode: Config of a loss, or a list of them.
        channels: Width of the decoder.
        refine: See :class:`LevelDecoder`.
        norm_cfg: Norm layers; None = BN.
        kwargs: ``in_index``, ``target``, ``align_corners`` and ``init_cfg`` of
            :class:`DenseTaskHead`.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        loss_decode: dict | Sequence[dict],
        channels: int = 64,
        refine: bool = True,
        norm_cfg: dict | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(in_channels=in_channels, out_channels=out_channels, **kwargs)
        self.decoder = LevelDecoder(
            self.in_channels,
            out_channels,
            channels,
            refine,
            norm_cfg,
            self.align_corners,
        )
        configs = [loss_decode] if isinstance(loss_decode, Mapping) else loss_decode
        self.loss_decode = nn.ModuleList(MODELS.build(cfg) for cfg in configs)

    def forward(self, feats: Sequence[Tensor]) -> Tensor:
        """Raw output at the size of the largest level, (B, out_channels, h, w)."""
        return self.decoder(self.select(feats))

    @abstractmethod
    def compared(self, output: Tensor, size: tuple[int, int]) -> Tensor:
        """From raw output to what the losses compare with a truth of this size."""

    def resize(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Interpolate a map."""
        return F.interpolate(x, size, mode='bilinear', align_corners=self.align_corners)

    def loss_of(
        self, output: Tensor, data_samples: Sequence[SegDataSample]
    ) -> dict[str, Tensor]:
        """See :meth:`DenseTaskHead.loss_of`."""
        target = self.truth(data_samples)
        pred = self.compared(output, (target.shape[2], target.shape[3]))
        losses: dict[str, Tensor] = {}
        for loss in self.loss_decode:
            value = loss(pred, target)
            name: Any = loss.loss_name
            losses[name] = losses[name] + value if name in losses else value
        return losses

    def truth(self, data_samples: Sequence[SegDataSample]) -> Tensor:
        """The truth of a batch.

        Shape:
            - output: (B, out_channels, H, W)

        Raises:
            ValueError: If a map has other channels, or another size than the first.
        """
        maps = [sample.get(self.target).data for sample in data_samples]
        expected = (self.out_channels, *maps[0].shape[-2:])
        for sample, data in zip(data_samples, maps, strict=True):
            if tuple(data.shape) != expected:
                raise ValueError(
                    f'{self.target} of {sample.get("img_path")!r} has the shape '
                    f'{tuple(data.shape)}, expected {expected}: '
                    f'{type(self).__name__} predicts {self.out_channels} channels, and '
                    'all maps of a batch have one size. Change the target of the '
                    'head, or set size of data_preprocessor.'
                )
        return torch.stack(maps)

    @property
    def prediction(self) -> str:
        """Field of the data sample that is predicted."""
        return 'pred_' + self.target.removeprefix('gt_')

    def finish(
        self, output: Tensor, img_meta: Mapping[str, Any]
    ) -> dict[str, BaseDataElement]:
        """See :meth:`DenseTaskHead.finish`."""
        return {self.prediction: PixelData(data=output)}
