"""Find the objects of a sample: connected regions of classes, or boxes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from .geometry_fields import areas


@dataclasses.dataclass(frozen=True)
class SampleObject:
    """Pixels of an object, and the boxes that go with it.

    Shape:
        - rows, columns: (P,) indices of its pixels
    """

    rows: np.ndarray
    columns: np.ndarray
    boxes: tuple[int, ...]


def box_classes(results: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the classes of ``gt_bboxes``; empty where the data set has none."""
    specs = results.get('target_specs', {}).values()
    return next((s.class_names for s in specs if s.kind == 'boxes'), ())


def boxes_of(results: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes, labels and ignore flags of a sample; empty where it has none.

    Shape:
        - returns: (N, 4) float32, (N,) int64, (N,) bool
    """
    boxes = np.asarray(results.get('gt_bboxes', ()), np.float32).reshape(-1, 4)
    labels = np.asarray(results.get('gt_bboxes_labels', np.zeros(len(boxes))), np.int64)
    flags = np.asarray(results.get('gt_ignore_flags', np.zeros(len(boxes))), bool)
    return boxes, labels, flags


def index_of(names: Sequence[str], index: int, others: Sequence[str]) -> int | None:
    """Index in ``others`` of the name at ``index``, None where they lack it."""
    if index >= len(names) or names[index] not in others:
        return None
    return list(others).index(names[index])


def pixel_window(box: np.ndarray, size: Sequence[int]) -> tuple[slice, slice]:
    """Rows and columns of the pixels that a box touches, within an image.

    Args:
        box: xyxy in pixels.
        size: Height and width of the image.
    """
    x, y, right, bottom = box
    left, top = max(int(np.floor(x)), 0), max(int(np.floor(y)), 0)
    right, bottom = (
        min(int(np.ceil(right)), size[1]),
        min(int(np.ceil(bottom)), size[0]),
    )
    return slice(top, max(bottom, top)), slice(left, max(right, left))


def region_objects(
    results: Mapping[str, Any],
    ids: Mapping[int, int | None],
    min_pixels: int,
) -> list[SampleObject]:
    """Connected regions (8 neighbours) of classes in the main label map.

    A box belongs to the region of its class that has most pixels in it; objects of one
    class that touch are one region with several boxes.

    Args:
        results: The sample.
        ids: Class id in the label map to class id of the boxes, None where boxes do not
            know the class.
        min_pixels: Smaller regions are left out.
    """
    labels = results['gt_seg_map']
    boxes, box_labels, _ = boxes_of(results)
    found = []
    for seg_id, box_id in ids.items():
        mask = (labels == seg_id).astype(np.uint8)
        count, regions, stats, _ = cv2.connectedComponentsWithStats(
            mask, connectivity=8
        )
        owners: dict[int, list[int]] = {}
        for index in np.flatnonzero(box_labels == (-1 if box_id is None else box_id)):
            inside = regions[pixel_window(boxes[index], labels.shape)]
            hits = np.bincount(inside.reshape(-1), minlength=count)
            hits[0] = 0
            if hits.any():
                owners.setdefault(int(hits.argmax()), []).append(int(index))
        for region in range(1, count):
            if stats[region, cv2.CC_STAT_AREA] >= min_pixels:
                rows, columns = np.nonzero(regions == region)
                members = tuple(owners.get(region, ()))
                found.append(SampleObject(rows, columns, members))
    return found


def box_objects(
    results: Mapping[str, Any], ids: Sequence[int], min_pixels: int
) -> list[SampleObject]:
    """Rectangles of the boxes of classes, with all boxes that lie mostly inside.

    Args:
        results: The sample.
        ids: Class ids of the boxes.
        min_pixels: Smaller rectangles are left out.
    """
    boxes, labels, flags = boxes_of(results)
    size = results['img'].shape[:2]
    found = []
    for index in np.flatnonzero(np.isin(labels, list(ids)) & ~flags):
        rows, columns = pixel_window(boxes[index], size)
        window = np.array(
            (columns.start, rows.start, columns.stop, rows.stop), np.float32
        )
        shared = np.concatenate(
            [
                np.maximum(boxes[:, :2], window[:2]),
                np.minimum(boxes[:, 2:], window[2:]),
            ],
            axis=1,
        )
        members = np.flatnonzero(areas(shared) >= 0.5 * areas(boxes))
        grid = np.mgrid[rows, columns].reshape(2, -1)
        if grid.shape[1] >= min_pixels:
            found.append(SampleObject(grid[0], grid[1], tuple(members.tolist())))
    return found
