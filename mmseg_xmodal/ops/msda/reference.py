"""Multi-scale deformable attention in plain PyTorch, on any device and in any dtype.

A sample is four rows of the value table with four bilinear weights. The forward is
thus one weighted ``embedding_bag`` per block of queries: no sampled value is ever
stored. The gradient of the values is a bag as well, of output gradients, after the
samples are sorted by the place they fall on; so it is deterministic. Coordinates and
sums are float32 (float64 for float64 values) whatever the dtype of the values. Values
must be finite: a sample outside reads some value of its level with the weight 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LevelShapes = Sequence[tuple[int, int]]

# Corners held at a time, and channels gathered at a time: small enough for the cache of
# a CPU core, large enough to fill a GPU.
_CORNERS = {'cpu': 1 << 18, 'cuda': 1 << 24}
_GATHERED = {'cpu': 1 << 20, 'cuda': 1 << 26}


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


class _Samples:
    """All samples as flat rows (image and query), in the dtype of the sums."""

    def __init__(
        self, value: Tensor, shapes: LevelShapes, locations: Tensor, weights: Tensor
    ) -> None:
        b, self.places, self.heads, self.channels = value.shape
        queries, self.levels, self.points = (locations.shape[i] for i in (1, 3, 4))
        self.shapes, self.starts = list(shapes), starts_of(shapes)
        self.dtype, self.device = accumulator(value), value.device
        self.rows = b * queries
        self.locations = locations.reshape(self.rows, *locations.shape[2:])
        self.weights = weights.reshape(self.rows, *weights.shape[2:])
        small = value.numel() // max(self.channels, 1) < 2**31 - 1
        self.index_dtype = torch.int32 if small else torch.int64
        image = torch.arange(b, dtype=self.index_dtype, device=self.device)
        self.image = image.repeat_interleave(queries).view(-1, 1, 1)

    def blocks(self, limit: int, per_row: int) -> list[slice]:
        step = max(limit // max(per_row, 1), 1)
        return [slice(i, i + step) for i in range(0, self.rows, step)]

    def corners(self, block: slice, level: int, stride: int, start: int) -> Corners:
        base = self.image[block] * stride + start
        where = self.locations[block, :, level].to(self.dtype)
        return corners(where, self.shapes[level], base)

    def used_levels(self) -> list[int]:
        samples = self.points * self.heads * self.channels
        return [i for i, (h, w) in enumerate(self.shapes) if h * w * samples]


def forward(
    value: Tensor, shapes: LevelShapes, locations: Tensor, weights: Tensor
) -> Tensor:
    """Sum the weighted samples; not differentiable.

    Shape:
        - value: (B, S, H, D)
        - locations: (B, Q, H, L, P, 2)
        - weights: (B, Q, H, L, P)
        - output: (B, Q, H * D)
    """
    b, _, heads, channels = value.shape
    samples = _Samples(value, shapes, locations, weights)
    used = samples.used_levels()
    out = value.new_zeros((samples.rows, heads * channels), dtype=samples.dtype)
    table = value.to(samples.dtype).reshape(-1, channels)
    per_row = heads * len(used) * samples.points * 4
    for block in samples.blocks(_limit(_CORNERS, value), per_row) if used else []:
        rows = samples.weights[block].shape[0]
        size = (rows, heads, len(used), samples.points, 4)
        index = torch.empty(size, dtype=samples.index_dtype, device=value.device)
        weight = torch.empty(size, dtype=samples.dtype, device=value.device)
        for i, level in enumerate(used):
            found = samples.corners(block, level, samples.places, samples.starts[level])
            index[:, :, i] = found.entry
            weights_here = samples.weights[block, :, level].to(samples.dtype)
            torch.mul(found.weight, weights_here.unsqueeze(-1), out=weight[:, :, i])
        bags = F.embedding_bag(
            index.view(rows * heads, -1),
            table,
            per_sample_weights=weight.view(rows * heads, -1),
            mode='sum',
        )
        out[block] = bags.view(rows, -1)
    return out.view(b, -1, heads * channels).to(value.dtype)


def backward(
    grad: Tensor,
    value: Tensor,
    shapes: LevelShapes,
    locations: Tensor,
    weights: Tensor,
    need_value: bool = True,
    need_samples: bool = True,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients by value, locations and weights; the same order in every run.

    Shape:
        - grad: (B, Q, H * D)
        - the rest: as in :func:`forward`
    """
    b, _, heads, channels = value.shape
    samples = _Samples(value, shapes, locations, weights)
    go = grad.reshape(samples.rows * heads, channels).to(samples.dtype)
    grad_value = torch.zeros_like(value, memory_format=torch.contiguous_format)
    grad_location = torch.zeros_like(samples.locations)
    grad_weight = torch.zeros_like(samples.weights)
    per_row = heads * samples.points * 4
    limit = min(_limit(_CORNERS, value), _limit(_GATHERED, value) // max(channels, 1))
    for level in samples.used_levels():
        (height, width), start = samples.shapes[level], samples.starts[level]
        places = height * width
        index = weight = None
        if need_value:
            size = (samples.rows, heads, samples.points, 4)
            index = torch.empty(size, dtype=samples.index_dtype, device=value.device)
            weight = torch.empty(size, dtype=samples.dtype, device=value.device)
        if need_samples:
            part = value[:, start : start + places].to(samples.dtype)
            table = part.reshape(-1, channels)
        for block in samples.blocks(limit, per_row):
            found = samples.corners(block, level, places, 0)
            factor = samples.weights[block, :, level].to(samples.dtype)
            if index is not None and weight is not None:
                index[block] = found.entry
                torch.mul(found.weight, factor.unsqueeze(-1), out=weight[block])
            if not need_samples:
                continue
            rows = factor.shape[0]
            gathered = table.index_select(0, found.entry.view(-1))
            gathered = gathered.view(rows * heads, -1, channels)
            here = go[block.start * heads : (block.start + rows) * heads]
            dots = torch.bmm(gathered, here.unsqueeze(-1)).view(found.weight.shape)
            grad_weight[block, :, level] = (
                (dots * found.weight).sum(-1).to(grad_weight.dtype)
            )
            by_x = (dots * found.dx).sum(-1) * factor * width
            by_y = (dots * found.dy).sum(-1) * factor * height
            grad_location[block, :, level] = torch.stack([by_x, by_y], -1).to(
                grad_location.dtype
            )
        if index is not None and weight is not None:
            summed = scatter_sorted(index, weight, go, b * places * heads)
            grad_value[:, start : start + places] = summed.view(
                b, places, heads, channels
            ).to(value.dtype)
    return (
        grad_value if need_value else None,
        grad_location.view_as(locations) if need_samples else None,
        grad_weight.view_as(weights) if need_samples else None,
    )


def scatter_sorted(index: Tensor, weight: Tensor, grad: Tensor, rows: int) -> Tensor:
    """Add ``weight * grad`` into the rows that ``index`` names, in a fixed order.

    Shape:
        - index: n * K elements, the first K belong to the first row of ``grad``
        - weight: as ``index``
        - grad: (n, D)
        - output: (rows, D)
    """
    per_source = index.numel() // max(grad.shape[0], 1)
    ordered, order = torch.sort(index.reshape(-1), stable=True)
    targets = torch.arange(rows, dtype=ordered.dtype, device=ordered.device)
    bounds = torch.searchsorted(ordered, targets, out_int32=index.dtype == torch.int32)
    weight = weight.reshape(-1)[order]
    source = order.div_(per_source, rounding_mode='floor').to(index.dtype)
    return F.embedding_bag(source, grad, bounds, per_sample_weights=weight, mode='sum')


def composite(
    value: Tensor, shapes: LevelShapes, locations: Tensor, weights: Tensor
) -> Tensor:
    """Compute the same from operations that PyTorch differentiates any number of times.

    For gradients of gradients and for export; it stores the gathered corners.

    Shape:
        - as :func:`forward`
    """
    b, _, heads, channels = value.shape
    queries, points = locations.shape[1], locations.shape[4]
    dtype = accumulator(value)
    locations, weights = locations.to(dtype), weights.to(dtype)
    out = value.new_zeros((b, queries, heads, channels), dtype=dtype)
    for level, (height, width) in enumerate(shapes):
        if not height * width:
            continue
        start, places = starts_of(shapes)[level], height * width
        part = value[:, start : start + places].to(dtype).reshape(-1, channels)
        image = torch.arange(b, device=value.device).view(-1, 1)
        base = image.expand(b, queries).reshape(-1, 1, 1) * places
        where = locations[:, :, :, level].reshape(-1, heads, points, 2)
        found = corners(where, (height, width), base)
        rows = part.index_select(0, found.entry.reshape(-1))
        rows = rows.view(b, queries, heads, points * 4, channels)
        factor = weights[:, :, :, level].reshape(-1, heads, points, 1)
        factor = (found.weight * factor).view(b, queries, heads, points * 4, 1)
        out = out + (rows * factor).sum(dim=3)
    return out.view(b, queries, heads * channels).to(value.dtype)


def _limit(limits: dict[str, int], tensor: Tensor) -> int:
    return limits.get(tensor.device.type, limits['cuda'])
