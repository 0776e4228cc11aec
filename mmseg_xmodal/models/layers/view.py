"""What a view did to a picture (resize, flip, padding), and how results undo it.

The facts stand in the metainfo of the sample: ``img_shape`` is the size of the picture
in the network's input, ``pad_shape`` the size of the input with the padding,
``scale_factor`` = (x, y) what the picture was resized by, ``flip`` and
``flip_direction`` whether it was mirrored before it was padded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_DIRECTIONS = {
    'horizontal': (True, False),
    'vertical': (False, True),
    'diagonal': (True, True),
}


def flip_axes(meta: Mapping[str, Any]) -> tuple[bool, bool]:
    """Whether the view is mirrored left to right, and top to bottom.

    Raises:
        ValueError: If ``flip`` is set and ``flip_direction`` is none that is known.
    """
    if not meta.get('flip'):
        return False, False
    direction = meta.get('flip_direction')
    if direction not in _DIRECTIONS:
        raise ValueError(
            f'{meta.get("img_path")!r} is flipped with flip_direction={direction!r}, '
            f'expected one of {list(_DIRECTIONS)}. Pack flip and flip_direction '
            'together (meta_keys of the pipeline).'
        )
    return _DIRECTIONS[direction]


def input_size(meta: Mapping[str, Any]) -> tuple[int, int] | None:
    """Height and width of the network's input, None where the metainfo has neither."""
    shape = meta.get('pad_shape', meta.get('img_shape'))
    return None if shape is None else (int(shape[0]), int(shape[1]))


def picture_size(meta: Mapping[str, Any]) -> tuple[int, int] | None:
    """Height and width of the picture in the input, without padding, or None."""
    shape = meta.get('img_shape')
    return None if shape is None else (int(shape[0]), int(shape[1]))


def scale_factor(meta: Mapping[str, Any]) -> tuple[float, float]:
    """By what the picture was resized, in x and in y.

    Where no transform has noted it, the sizes before and after tell.
    """
    factor = meta.get('scale_factor')
    if factor is not None:
        pair = (factor, factor) if isinstance(factor, float | int) else factor
        return float(pair[0]), float(pair[1])
    now, before = meta.get('img_shape'), meta.get('ori_shape')
    if now is None or before is None:
        return 1.0, 1.0
    return now[1] / before[1], now[0] / before[0]


def boxes_to_original(bboxes: Tensor, meta: Mapping[str, Any]) -> Tensor:
    """Take boxes from the network's input to the original image.

    Padding is taken off (what lies in it is clipped), then the flip is undone, then the
    resize. All are in pixels, xyxy, with pixel i from i to i + 1.

    Shape:
        - bboxes, output: (N, 4)

    Raises:
        ValueError: If the metainfo has no ``img_shape``, or an unknown flip.
    """
    size = picture_size(meta)
    if size is None:
        raise ValueError(
            f'The metainfo of {meta.get("img_path")!r} has no img_shape, which boxes '
            f'are clipped to; it has {sorted(meta)}. Add it to meta_keys of the '
            'pipeline.'
        )
    padding = meta.get('img_padding_size', meta.get('padding_size', (0, 0, 0, 0)))
    left, top = float(padding[0]), float(padding[2])
    boxes = _clip(bboxes - bboxes.new_tensor([left, top, left, top]), size)
    x1, y1, x2, y2 = boxes.unbind(1)
    horizontal, vertical = flip_axes(meta)
    if horizontal:
        x1, x2 = size[1] - x2, size[1] - x1
    if vertical:
        y1, y2 = size[0] - y2, size[0] - y1
    scale = bboxes.new_tensor(scale_factor(meta) * 2)
    boxes = torch.stack([x1, y1, x2, y2], 1) / scale
    original = meta.get('ori_shape')
    return boxes if original is None else _clip(boxes, original)


def _clip(boxes: Tensor, size: Any) -> Tensor:
    """Clip boxes to a picture of (height, width)."""
    limit = boxes.new_tensor([size[1], size[0]] * 2)
    return torch.minimum(boxes.clamp(min=0), limit)
