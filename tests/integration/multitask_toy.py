"""A data set with partial labels, and a loss, for ``custom_imports`` of a config."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.registry import DATASETS
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample
from torch import Tensor, nn
from torch.utils.data import Dataset

from mmseg_xmodal.registry import MODELS

SIZE = (32, 32)


@DATASETS.register_module()
class ToyTasks(Dataset):
    """Samples with labels of a segmentation and a height; odd ones with boxes as well.

    Args:
        bad: Index of a sample whose height is infinite.
    """

    metainfo = dict(classes=('a', 'b', 'c'))

    def __init__(self, bad: int | None = None) -> None:
        self.bad = bad

    def full_init(self) -> None:
        """Nothing to load."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, idx: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(idx)
        meta = dict(img_path=f'{idx}.png', ori_shape=SIZE, img_shape=SIZE)
        sample = SegDataSample(metainfo=meta)
        label = torch.randint(0, 3, (1, *SIZE), generator=generator)
        height = torch.randn(1, *SIZE, generator=generator)
        if idx == self.bad:
            height[0, 0, 0] = torch.inf
        sample.gt_sem_seg = PixelData(data=label)
        sample.gt_height = PixelData(data=height)
        if idx % 2:
            box = torch.tensor([[4.0, 4.0, 20.0, 16.0 + idx]])
            sample.gt_instances = InstanceData(
                bboxes=box, labels=torch.zeros(1, dtype=torch.int64)
            )
        image = torch.randint(
            0, 256, (3, *SIZE), generator=generator, dtype=torch.uint8
        )
        return dict(inputs=image, data_samples=sample)


@MODELS.register_module()
class ToySquare(nn.Module):
    """A loss that believes every truth, finite or not."""

    loss_name = 'loss_square'

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        return (pred - target).square().mean()
