"""The boxes of a data sample, checked before a head learns from them."""

from __future__ import annotations

import torch
from mmseg.structures import SegDataSample
from torch import Tensor

from .view import picture_size


def check_instances(
    sample: SegDataSample,
    target: str,
    num_classes: int | None = None,
    size: tuple[int, int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Boxes and labels of a sample.

    Args:
        sample: With ``target``, an InstanceData of ``bboxes`` and ``labels``.
        target: Field of the truth, such as ``gt_instances``.
        num_classes: Labels lie below it; None = not checked.
        size: Height and width of the picture where the metainfo has no ``img_shape``.

    Returns:
        Boxes in pixels of the input, xyxy, and class ids; none of either is a truth as
        well.

    Shape:
        - bboxes: (N, 4) float32
        - labels: (N,) int64

    Raises:
        ValueError: If a box has no area, has its centre outside of the picture, or
            a label is no class.
    """
    instances = sample.get(target)
    bboxes = instances.bboxes.float().reshape(-1, 4)
    labels = instances.labels.long()
    size = picture_size(sample.metainfo) or size
    extent = bboxes[:, 2:] - bboxes[:, :2]
    centre = (bboxes[:, 2:] + bboxes[:, :2]) / 2
    # Written so that NaN is bad.
    good = torch.isfinite(bboxes).all(1) & (extent > 0).all(1)
    if size is not None:
        limit = bboxes.new_tensor([size[1], size[0]])
        good &= ((centre >= 0) & (centre < limit)).all(1)
    known = labels >= 0
    if num_classes is not None:
        known &= labels < num_classes
    # One look at the values, which a GPU has to be waited for.
    if not bool((good & known).all()):
        _complain(sample, target, good, num_classes, size)
    return bboxes, labels


def _complain(
    sample: SegDataSample,
    target: str,
    good: Tensor,
    num_classes: int | None,
    size: tuple[int, int] | None,
) -> None:
    """Name the first bad box, or the first label that is no class."""
    instances, where = sample.get(target), f'{target} of {sample.get("img_path")!r}'
    if not bool(good.all()):
        index = int((~good).nonzero()[0])
        box = [round(float(v), 2) for v in instances.bboxes.reshape(-1, 4)[index]]
        picture = '' if size is None else f' of height {size[0]} and width {size[1]}'
        raise ValueError(
            f'{where} has the box {box} at index {index}, expected x1 < x2, y1 < y2 '
            f'and its centre inside of the picture{picture}. Transforms should have '
            'clipped or dropped it: use the box-aware ones of mmseg_xmodal in the '
            'train pipeline, or mend the annotation.'
        )
    labels = instances.labels
    limit = num_classes if num_classes is not None else 'any number'
    bad = (labels < 0) | (labels >= (num_classes or labels.max() + 1))
    index = int(bad.nonzero()[0])
    raise ValueError(
        f'{where} has the label {int(labels[index])} at index {index}, expected 0 up '
        f'to, not including, {limit}. Change num_classes of the head in task_heads, '
        'or the classes of the data set.'
    )
