"""What resizing, cropping, flipping and rotating do to maps and boxes.

A pixel with index i covers [i, i + 1) of its axis: boxes are given by such edges, and a
box around the pixels 3 to 5 reaches from 3 to 6.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cv2
import mmcv
import numpy as np

from .target_specs import FLOAT_KINDS, IGNORE, void_of

# What has one entry per box.
BOX_KEYS = ('gt_bboxes', 'gt_bboxes_labels', 'gt_ignore_flags')
HULLS = ('corners', 'ellipse')


def resize_map(
    array: np.ndarray, size: tuple[int, int], kind: str, backend: str = 'cv2'
) -> np.ndarray:
    """Resize a map without mixing values.

    Nearest, as stock ``Resize``. Edges: a pixel of the smaller map is an edge where any
    of the pixels that it covers is one, else ignored where any is ignored, so that
    thin edges stay; enlarged they get thicker.

    Args:
        array: The map.
        size: Height and width wanted.
        kind: Kind of the map.
        backend: Of ``mmcv.imresize``, for label maps.

    Shape:
        - array: (H, W) or (H, W, C)
    """
    height, width = size
    if kind == 'edge':
        rank = np.where(array == IGNORE, 1, 2 * (array == 1)).astype(np.uint8)
        for axis, count in enumerate((height, width)):
            starts = np.arange(count) * array.shape[axis] // count
            rank = np.maximum.reduceat(rank, starts, axis=axis)
        return np.array([0, IGNORE, 1], np.uint8)[rank]
    if kind in FLOAT_KINDS:
        backend = 'cv2'  # the other one takes bytes only
    return mmcv.imresize(
        np.ascontiguousarray(array),
        (width, height),
        interpolation='nearest',
        backend=backend,
    )


def rescale_distance(depth: np.ndarray, scale_factor: Sequence[float]) -> np.ndarray:
    """Distances as a camera of the same focal length would see the resized scene.

    An object that appears s times as large is s times as near. Where width and height
    differ in scale, s is their geometric mean.
    """
    factor = math.sqrt(scale_factor[0] * scale_factor[1])
    return (depth / factor).astype(depth.dtype)


def flip_normals(normals: np.ndarray, direction: str) -> np.ndarray:
    """Turn the vectors of a map whose pixels are flipped already.

    Args:
        normals: x right, y down, z to the viewer.
        direction: ``'horizontal'``, ``'vertical'`` or ``'diagonal'`` (both).

    Shape:
        - normals: (H, W, 3)
    """
    signs = dict(horizontal=(-1, 1, 1), vertical=(1, -1, 1), diagonal=(-1, -1, 1))
    return normals * np.asarray(signs[direction], normals.dtype)


def rotation(
    size: tuple[int, int],
    degree: float,
    center: tuple[float, float] | None,
    auto_bound: bool,
) -> tuple[np.ndarray, tuple[int, int]]:
    """The affine map of ``mmcv.imrotate``.

    Args:
        size: Height and width.
        degree: Clockwise.
        center: x and y of the centre, as indices of pixels. Defaults to the middle.
        auto_bound: Whether the image grows to hold all of it.

    Returns:
        The matrix from old to new indices, and the new height and width.

    Shape:
        - matrix: (2, 3)
    """
    height, width = size
    middle = center or ((width - 1) * 0.5, (height - 1) * 0.5)
    matrix = cv2.getRotationMatrix2D(middle, -degree, 1.0)
    if auto_bound:
        cos, sin = abs(matrix[0, 0]), abs(matrix[0, 1])
        wide, high = height * sin + width * cos, height * cos + width * sin
        matrix[:, 2] += ((wide - width) * 0.5, (high - height) * 0.5)
        height, width = round(high), round(wide)
    return matrix, (height, width)


def rotate_map(
    array: np.ndarray,
    matrix: np.ndarray,
    size: tuple[int, int],
    kind: str,
    label_void: float = IGNORE,
) -> np.ndarray:
    """Rotate a map, nearest; normals turn with it. What comes in from outside is void.

    Args:
        array: The map.
        matrix: From :func:`rotation`.
        size: Height and width of the result.
        kind: Kind of the map.
        label_void: Void of a label map.

    Shape:
        - array: (H, W) or (H, W, 3)
    """
    void = void_of(kind, label_void)
    rotated = cv2.warpAffine(
        np.ascontiguousarray(array),
        matrix,
        (size[1], size[0]),
        flags=cv2.INTER_NEAREST,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(void,) * 4,
    )
    if kind == 'normal':
        turn = matrix[:, :2].astype(array.dtype)
        rotated[..., :2] = rotated[..., :2] @ turn.T
    return rotated


def rotate_boxes(boxes: np.ndarray, matrix: np.ndarray, hull: str) -> np.ndarray:
    """Boxes around rotated boxes.

    Args:
        boxes: Before.
        matrix: From :func:`rotation`.
        hull: ``'corners'``: around the corners of the rotated box, so that nothing of
            the object can lie outside; ``'ellipse'``: around the ellipse that touches
            the four sides of the box, tighter, and right for round objects.

    Shape:
        - boxes: (N, 4) xyxy
    """
    # Boxes count in edges, the matrix in centres of pixels.
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2 - 0.5
    half = (boxes[:, 2:] - boxes[:, :2]) / 2
    turn = matrix[:, :2]
    middle = middle @ turn.T + matrix[:, 2] + 0.5
    if hull == 'corners':
        half = half @ np.abs(turn).T
    else:
        half = np.sqrt(half**2 @ (turn**2).T)
    return np.concatenate([middle - half, middle + half], 1).astype(np.float32)


def keep_boxes(results: dict, keep: np.ndarray) -> None:
    """Take boxes out of a sample, with everything that has one entry per box.

    Args:
        results: The sample, changed in place.
        keep: Which boxes stay.

    Shape:
        - keep: (N,) bool
    """
    for key in BOX_KEYS:
        if results.get(key) is not None:
            results[key] = np.asarray(results[key])[keep]


def clip_boxes(results: dict, size: tuple[int, int], min_area_share: float) -> None:
    """Cut the boxes of a sample at the border and drop those of which little is left.

    Ignored boxes (``gt_ignore_flags``) stay as long as anything of them is left.

    Args:
        results: The sample, changed in place.
        size: Height and width of the image.
        min_area_share: Share of the area of a box that must be left.
    """
    boxes = np.asarray(results['gt_bboxes'], np.float32).reshape(-1, 4)
    height, width = size
    limits = np.asarray((width, height, width, height), np.float32)
    clipped = np.clip(boxes, 0, limits)
    before, after = areas(boxes), areas(clipped)
    ignored = np.asarray(results.get('gt_ignore_flags', np.zeros(len(boxes), bool)))
    keep = (after > 0) & (ignored | (after >= min_area_share * before))
    results['gt_bboxes'] = clipped
    keep_boxes(results, keep)


def areas(boxes: np.ndarray) -> np.ndarray:
    """Areas of boxes, 0 for those without any.

    Shape:
        - boxes: (N, 4) xyxy
        - returns: (N,)
    """
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    return sides[:, 0] * sides[:, 1]


def check_share(share: Any, who: str) -> float:
    """Return ``min_area_share`` after checking it.

    Raises:
        ValueError: If it lies outside [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f'{who}: min_area_share is {share}, expected one in [0, 1].')
    return share
