"""Where a sample lies between the places of a level, and how much each weighs.

Four corners of a sample are the products of two pairs: left and right, top and bottom.
What can be said of a pair is computed once for it, as most of the time goes into this.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

LevelShapes = Sequence[tuple[int, int]]


class Axis(NamedTuple):
    """The two neighbours of each sample along one axis, all (n, K).

    Shape:
        - first: (n, K), the first neighbour, from -1, where there is none, to the last
        - places: (n, K) each, the neighbours; at the border where there is none
        - exists: (n, K) each, 1 or 0
        - weights: (n, K) each, linear; 0 where there is no neighbour
    """

    first: Tensor
    places: tuple[Tensor, Tensor]
    exists: tuple[Tensor, Tensor]
    weights: tuple[Tensor, Tensor]

    def mean(self, first: Tensor, second: Tensor) -> Tensor:
        """Interpolate."""
        return torch.addcmul(self.weights[0] * first, self.weights[1], second)

    def slope(self, first: Tensor, second: Tensor) -> Tensor:
        """Derivative of :meth:`mean` by the position."""
        return self.exists[1] * second - self.exists[0] * first


class Corners(NamedTuple):
    """The four corners of K samples in each of n rows.

    Shape:
        - entry: (n, 4, K), rows of the value table; corners (top, left), (top, right),
          (bottom, left), (bottom, right)
    """

    entry: Tensor
    x: Axis
    y: Axis

    def weights(self, factor: Tensor, dim: int = 1) -> Tensor:
        """Bilinear weights times ``factor`` (n, K), the four corners along ``dim``."""
        down = [weight * factor for weight in self.y.weights]
        return torch.stack([j * i for j in down for i in self.x.weights], dim)

    def cells(self, width: int, dtype: torch.dtype) -> Tensor:
        """Number of the cell between the corners, of (height + 1) x (width + 1)."""
        row, column = self.y.first.to(dtype) + 1, self.x.first.to(dtype) + 1
        return row * (width + 1) + column

    def gradients(self, dots: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Derivatives of the interpolated ``dots`` (n, 4, K) of the corners.

        Returns:
            By a factor of the sample, by x and by y in pixels, (n, K) each.
        """
        top_left, top_right, bottom_left, bottom_right = dots.unbind(1)
        left = self.y.mean(top_left, bottom_left)
        right = self.y.mean(top_right, bottom_right)
        top = self.x.mean(top_left, top_right)
        bottom = self.x.mean(bottom_left, bottom_right)
        return (
            self.x.mean(left, right),
            self.x.slope(left, right),
            self.y.slope(top, bottom),
        )


def corners(
    locations: Tensor,
    height: Tensor,
    width: Tensor,
    start: Tensor,
    base: Tensor,
    heads: int,
) -> Corners:
    """Find the corners of samples on non-empty levels, and their weights.

    Args:
        locations: Samples in fractions of their level, (x, y); NaN lies outside.
        height: Of the level of each of the K samples, or of all.
        width: Likewise.
        start: First place of the level, likewise.
        base: Row of the value table where the image and head of a row begin.
        heads: Rows of the table per place.

    Shape:
        - locations: (n, K, 2)
        - height, width, start: (K,) or (1,), in the dtype of ``base``
        - base: (n, 1)
    """
    dtype = locations.dtype
    x = _axis(locations[..., 0], width.to(dtype))
    y = _axis(locations[..., 1], height.to(dtype))
    rows = [(row.to(base.dtype) * width + start) * heads + base for row in y.places]
    columns = [column.to(base.dtype) * heads for column in x.places]
    return Corners(torch.stack([j + i for j in rows for i in columns], 1), x, y)


def _axis(location: Tensor, size: Tensor) -> Axis:
    """Neighbours along an axis of ``size`` pixels.

    What exists is counted, not compared: on a CPU a choice by a bool costs as much as
    ten sums. A sample beyond the last neighbours comes to lie where there is none.
    """
    position = (location * size - 0.5).nan_to_num(nan=-2.0)
    position = torch.minimum(position.clamp(min=-2), size)
    first = position.detach().floor()
    second, last = first + 1, size - 1
    # At -1 itself a sample is outside, in all back ends.
    begun = (position.detach() + 1).ceil()
    exists = (
        torch.minimum(second, size - first).clamp(0, 1),
        torch.minimum(begun, last - first).clamp(0, 1),
    )
    fraction = position - first
    first = torch.minimum(first.clamp(min=-1), last)
    return Axis(
        first,
        (first.clamp(min=0), torch.minimum(first + 1, last)),
        exists,
        (exists[0] * (1 - fraction), exists[1] * fraction),
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
