"""Crops and windows of a picture, and fusing predictions of two resolutions.

Paper: HRDA, 2022, https://arxiv.org/abs/2204.13132. Official code:
https://github.com/lhoyer/MIC (Apache-2.0). Clean room, nothing copied. There the last
crop is kept in the class and in the head; here it is a value that is handed on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

Size = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class CropBox:
    """A rectangle of a picture: ends exclusive, in pixels.

    Raises:
        ValueError: If it is empty or begins outside of the picture.
    """

    top: int
    bottom: int
    left: int
    right: int

    def __post_init__(self) -> None:
        if not (0 <= self.top < self.bottom and 0 <= self.left < self.right):
            raise ValueError(
                f'{self} is no crop, expected 0 <= top < bottom and '
                '0 <= left < right, in pixels.'
            )

    @classmethod
    def whole(cls, size: Size) -> CropBox:
        """All of a picture of height and width ``size``."""
        return cls(0, size[0], 0, size[1])

    @property
    def size(self) -> Size:
        """Height and width."""
        return self.bottom - self.top, self.right - self.left

    def cut(self, x: Any) -> Any:
        """Take the rectangle out of (..., H, W); what lies beyond the end is less."""
        return x[..., self.top : self.bottom, self.left : self.right]

    def on_grid(self, size: Size, grid: Size) -> CropBox:
        """The same rectangle in cells of a map.

        Args:
            size: Height and width of the picture.
            grid: Height and width of the map of that picture.

        Raises:
            ValueError: If an edge lies within a cell.
        """
        edges = []
        for edge, axis in zip(dataclasses.astuple(self), (0, 0, 1, 1), strict=True):
            cell, rest = divmod(edge * grid[axis], size[axis])
            if rest:
                raise ValueError(
                    f'{self} of a picture of {size} does not lie on the cells of its '
                    f'{grid} map. Expected a crop_divisor that the stride of the head, '
                    'divided by context_scale, divides: change it in the model.'
                )
            edges.append(cell)
        return CropBox(*edges)


def draw_crop(
    size: Size, crop: Size, divisor: int = 8, rng: np.random.RandomState | None = None
) -> CropBox:
    """Draw a crop at multiples of ``divisor``, first its row, then its column.

    As published the last possible place is never drawn. Nothing is drawn along a side
    that has one place only.

    Args:
        size: Height and width of the picture.
        crop: Height and width of the crop; a side larger than the picture is cut.
        divisor: Pixels.
        rng: numpy's generator; None = its global one.
    """
    draw = np.random if rng is None else rng
    height, width = (min(c, s) for c, s in zip(crop, size, strict=True))
    starts = []
    for whole, part in ((size[0], height), (size[1], width)):
        places = (whole - part + 1) // divisor
        starts.append(int(draw.randint(0, places)) * divisor if places else 0)
    top, left = starts
    return CropBox(top, top + height, left, left + width)


def slide_boxes(size: Size, crop: Size, stride: Size) -> tuple[CropBox, ...]:
    """Overlapping windows that cover a picture, row by row, as mmseg lays them.

    Args:
        size: Height and width of the picture.
        crop: Height and width of a window; a side larger than the picture is cut.
        stride: Steps between windows.

    Raises:
        ValueError: If the windows would leave gaps.
    """
    if not all(0 < s <= c for s, c in zip(stride, crop, strict=True)):
        raise ValueError(
            f'Windows have the size {tuple(crop)} and the stride {tuple(stride)}, '
            'expected a stride of at least 1 and at most the size: windows must not '
            'leave gaps. Change the stride.'
        )
    rows, columns = (
        list(_intervals(*sides)) for sides in zip(size, crop, stride, strict=True)
    )
    return tuple(CropBox(*row, *column) for row in rows for column in columns)


def _intervals(size: int, crop: int, stride: int) -> Iterator[tuple[int, int]]:
    for i in range(max(size - crop + stride - 1, 0) // stride + 1):
        end = min(i * stride + crop, size)
        yield max(end - crop, 0), end


def average_windows(logits: Tensor, boxes: Sequence[CropBox], size: Size) -> Tensor:
    """Average the logits of overlapping windows on one map.

    Args:
        logits: Of all windows, all pictures of the first window first.
        boxes: The windows, of one size.
        size: Height and width of the picture, in pixels.

    Shape:
        - logits: (len(boxes) * B, C, h, w)
        - output: (B, C, H, W), at the stride of ``logits``
    """
    # Where every window lies: cells of the logits, by the first window's size.
    grid = _canvas(logits, boxes[0], size)
    total: Any = 0
    count = logits.new_zeros(grid)
    for part, box in zip(logits.chunk(len(boxes)), boxes, strict=True):
        cells = box.on_grid(size, grid)
        total = total + _place(part, cells, grid)
        cells.cut(count).add_(1)
    return total / count


def _canvas(logits: Tensor, box: CropBox, size: Size) -> Size:
    """Height and width of a map of the whole picture at the stride of ``logits``."""
    sides = []
    for cells, part, whole in zip(logits.shape[2:], box.size, size, strict=True):
        side, rest = divmod(whole * cells, part)
        if rest:
            raise ValueError(
                f'A crop of {box.size} pixels gives a map of {tuple(logits.shape[2:])} '
                f'cells, which does not divide the picture of {size}. Expected a '
                'crop_divisor that is a multiple of the stride of the head: change it '
                'in the model.'
            )
        sides.append(side)
    return sides[0], sides[1]


def _place(x: Tensor, cells: CropBox, grid: Size) -> Tensor:
    """Put a map into a larger one of zeros."""
    if tuple(x.shape[2:]) == grid:
        return x
    sides = cells.left, grid[1] - cells.right, cells.top, grid[0] - cells.bottom
    return F.pad(x, sides)


@dataclasses.dataclass(frozen=True)
class FusedLogits:
    """What comes of two resolutions.

    Args:
        fused: Both, weighted by the attention.
        context: Of the small picture, already multiplied by what the attention leaves.
        detail: Of the crop at full resolution.
        attention: In [0, 1]: share of the detail, not yet limited to the crop.
        box: Where ``detail`` lies, in pixels.
        size: Height and width of the picture, in pixels.

    Shape:
        - fused: (B, C, H, W)
        - context: (B, C, h, w)
        - detail: (B, C, H_crop, W_crop)
        - attention: (B, C or 1, h, w)
    """

    fused: Tensor
    context: Tensor
    detail: Tensor
    attention: Tensor
    box: CropBox
    size: Size


def fuse_resolutions(
    context: Tensor,
    detail: Tensor,
    attention: Tensor,
    box: CropBox,
    size: Size,
    align_corners: bool = False,
) -> FusedLogits:
    """Let the attention choose between the context and the detail, within the crop.

    The attention and the context are upsampled after the attention has been set to 0
    outside of the crop, so that the edge of the crop is soft.

    Args:
        context: Logits of the small picture.
        detail: Logits of the crop.
        attention: Logits of the share of the detail.
        box: The crop, in pixels.
        size: Height and width of the picture, in pixels.
        align_corners: As in ``F.interpolate``.

    Shape:
        - context: (B, C, h, w); attention: (B, C or 1, h, w)
        - detail: (B, C, H_crop, W_crop)

    Raises:
        ValueError: If an edge of the crop lies within a cell of a map.
    """
    share = torch.sigmoid(attention)
    limited = share
    if box != CropBox.whole(size):
        cells = box.on_grid(size, (share.shape[2], share.shape[3]))
        inside = share.new_zeros(share.shape[2:])
        cells.cut(inside).fill_(1)
        limited = share * inside
    rest = (1 - limited) * context
    grid = _canvas(detail, box, size)
    placed = _place(detail, box.on_grid(size, grid), grid)
    fused = _upsample(limited, grid, align_corners) * placed
    fused = fused + _upsample(rest, grid, align_corners)
    return FusedLogits(fused, rest, detail, share, box, size)


def _upsample(x: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    return F.interpolate(x, tuple(size), mode='bilinear', align_corners=align_corners)


@dataclasses.dataclass(frozen=True)
class ResolutionFeatures(Sequence[Tensor]):
    """Maps of a small picture and of crops at full resolution.

    As a sequence it is the maps of the small picture: what auxiliary heads and feature
    distances read.

    Args:
        context: Maps of the small picture.
        detail: Maps of all crops, all pictures of the first crop first.
        boxes: The crops, in pixels of the padded picture.
        padded: Height and width that the network saw, in pixels.
        size: Height and width of the picture, in pixels.
    """

    context: tuple[Tensor, ...]
    detail: tuple[Tensor, ...]
    boxes: tuple[CropBox, ...]
    padded: Size
    size: Size

    def __len__(self) -> int:
        return len(self.context)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Tensor, ...]: ...

    def __getitem__(self, index: int | slice) -> Tensor | tuple[Tensor, ...]:
        return self.context[index]
