"""Where a sample lies between the places of a level, and how much each weighs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

LevelShapes = Sequence[tuple[int, int]]


class Corners(NamedTuple):
    """The four corners of samples on one level.

    Shape:
        - entry: (n, H, P, 4), rows of the value table; corners (0, 0), (0, 1), (1, 0),
          (1, 1) in (y, x)
        - weight: (n, H, P, 4), bilinear, 0 outside of the map
        - dx: (n, H, P, 4), derivative of ``weight`` by x in pixels
        - dy: (n, H, P, 4), likewise by y
    """

    entry: Tensor
    weight: Tensor
    dx: Tensor
    dy: Tensor


def corners(locations: Tensor, shape: tuple[int, int], base: Tensor) -> Corners:
    """Find the corners of samples on one non-empty level, and their weights.

    Args:
        locations: Samples in fractions of the level, (x, y); NaN lies outside.
        shape: Height and width of the level.
        base: Row of the value table where the level begins.

    Shape:
        - locations: (n, H, P, 2)
        - base: (n, 1, 1), counted in places (rows of H heads)
    """
    height, width = shape
    x = locations[..., 0] * width - 0.5
    y = locations[..., 1] * height - 0.5
    inside = (x > -1) & (x < width) & (y > -1) & (y < height)
    # Elsewhere a coordinate may not even fit into an integer.
    x, y = torch.where(inside, x, 0.0), torch.where(inside, y, 0.0)
    left, top = x.detach().floor(), y.detach().floor()
    fx, fy = x - left, y - top
    column, row = left.to(base.dtype), top.to(base.dtype)
    zero = torch.zeros((), dtype=x.dtype, device=x.device)
    in_x = [(column >= 0) & inside, (column < width - 1) & inside]
    in_y = [row >= 0, row < height - 1]
    weight_x = [torch.where(in_x[0], 1 - fx, zero), torch.where(in_x[1], fx, zero)]
    weight_y = [torch.where(in_y[0], 1 - fy, zero), torch.where(in_y[1], fy, zero)]
    slope_x = [-in_x[0].to(x.dtype), in_x[1].to(x.dtype)]
    slope_y = [-in_y[0].to(x.dtype), in_y[1].to(x.dtype)]
    columns = [column.clamp(min=0), (column + 1).clamp(max=width - 1)]
    rows = [row.clamp(min=0) * width, (row + 1).clamp(max=height - 1) * width]
    heads = locations.shape[1]
    head = torch.arange(heads, dtype=base.dtype, device=base.device).view(1, -1, 1)
    pairs = [(0, 0), (0, 1), (1, 0), (1, 1)]
    return Corners(
        torch.stack(
            [(base + rows[j] + columns[i]) * heads + head for j, i in pairs], -1
        ),
        torch.stack([weight_y[j] * weight_x[i] for j, i in pairs], -1),
        torch.stack([weight_y[j] * slope_x[i] for j, i in pairs], -1),
        torch.stack([slope_y[j] * weight_x[i] for j, i in pairs], -1),
    )


def accumulator(value: Tensor) -> torch.dtype:
    """Dtype of coordinates and sums."""
    return torch.float64 if value.dtype == torch.float64 else torch.float32


def starts_of(shapes: LevelShapes) -> list[int]:
    """First place of each level."""
    starts = [0]
    for height, width in shapes:
        starts.append(starts[-1] + height * width)
    return starts[:-1]
