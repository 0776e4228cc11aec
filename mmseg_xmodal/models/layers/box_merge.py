"""Boxes of several views of one picture put together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine.structures import InstanceData
from torch import Tensor


def pairwise_iou(boxes: Tensor) -> Tensor:
    """Intersection over union of all pairs.

    Shape:
        - boxes: (N, 4), xyxy
        - output: (N, N); 0 between boxes without an area
    """
    low = torch.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = (high - low).clamp(min=0).prod(2)
    area = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1)
    union = area[:, None] + area[None] - shared
    return torch.where(union > 0, shared / union.clamp(min=1e-12), 0)


def merge_boxes(
    views: Sequence[InstanceData], iou_threshold: float = 0.5, most: int = 100
) -> InstanceData:
    """All boxes of all views, without those that a better one of its class covers.

    Greedy non-maximum suppression per class, as mmdet merges views. A score stays that
    of its view.

    Args:
        views: Each with ``bboxes``, ``scores`` and ``labels``, in the coordinates of
            one picture.
        iou_threshold: Overlap, in [0, 1], above which the lower score goes.
        most: Boxes that are kept, those of the highest scores.
    """
    every = InstanceData.cat(list(views))
    order = every.scores.argsort(descending=True, stable=True)
    every = every[order]
    same = every.labels[:, None] == every.labels[None]
    covers = (pairwise_iou(every.bboxes) > iou_threshold) & same
    kept: list[int] = []
    gone = torch.zeros(len(order), dtype=torch.bool, device=order.device)
    for i in range(len(order)):
        if len(kept) == most:
            break
        if not gone[i]:
            kept.append(i)
            gone |= covers[i]
    return every[torch.tensor(kept, dtype=torch.long, device=order.device)]
