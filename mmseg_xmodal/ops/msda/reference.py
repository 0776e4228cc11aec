"""Multi-scale deformable attention in plain PyTorch, on any device and in any dtype.

A sample is four rows of the value table with four bilinear weights. The forward is
thus one weighted ``embedding_bag`` per block of queries: no sampled value is ever
stored. The gradient of the values is a bag as well, of output gradients, after the
samples are sorted by the place they fall on; so it is deterministic. Coordinates and
sums are float32 (float64 for float64 values) whatever the dtype of the values. Values
must be finite: a sample outside reads some value of its level with the weight 0.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .corners import Corners, LevelShapes, accumulator, corners, starts_of

# Corners held at a time, and channels gathered at a time: small enough for the cache of
# a CPU core, large enough to fill a GPU.
_CORNERS = {'cpu': 1 << 18, 'cuda': 1 << 24}
_GATHERED = {'cpu': 1 << 20, 'cuda': 1 << 26}


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
    queries = locations.shape[1]
    samples = _Samples(value, shapes, locations, weights)
    used = samples.used_levels()
    out = value.new_zeros((samples.rows, heads * channels), dtype=samples.dtype)
    table = value.to(samples.dtype).reshape(value.shape[:3].numel(), channels)
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
    return out.view(b, queries, heads * channels).to(value.dtype)


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
    samples = _Samples(value, shapes, locations, weights)
    heads, channels, points = samples.heads, samples.channels, samples.points
    # Expanded gradients, as of a sum, have strides of 0 that products are slow with.
    go = grad.to(samples.dtype).contiguous().view(samples.rows * heads, channels)
    # Contiguous, as the fake of the operator promises, whatever the inputs are.
    layout = torch.contiguous_format
    grad_value = torch.zeros_like(value, memory_format=layout)
    grad_location = torch.zeros_like(samples.locations, memory_format=layout)
    grad_weight = torch.zeros_like(samples.weights, memory_format=layout)
    table = value.to(samples.dtype).reshape(value.shape[:3].numel(), channels)
    limit = min(_limit(_CORNERS, value), _limit(_GATHERED, value) // max(channels, 1))
    for level in samples.used_levels():
        height, width = samples.shapes[level]
        start = samples.starts[level]
        size = (samples.rows if need_value else 0, heads, points, 4)
        entry = torch.empty(size, dtype=samples.index_dtype, device=value.device)
        weight = torch.empty(size, dtype=samples.dtype, device=value.device)
        for block in samples.blocks(limit, heads * points * 4):
            found = samples.corners(block, level, samples.places, start)
            factor = samples.weights[block, :, level].to(samples.dtype)
            if need_value:
                entry[block] = found.entry
                torch.mul(found.weight, factor.unsqueeze(-1), out=weight[block])
            if not need_samples:
                continue
            rows = slice(
                block.start * heads, block.start * heads + factor[..., 0].numel()
            )
            dots = _products(table, found.entry, go[rows])
            grad_weight[block, :, level] = (
                (dots * found.weight).sum(-1).to(weights.dtype)
            )
            by_x = (dots * found.dx).sum(-1) * factor * width
            by_y = (dots * found.dy).sum(-1) * factor * height
            by_both = torch.stack([by_x, by_y], -1)
            grad_location[block, :, level] = by_both.to(locations.dtype)
        if need_value:
            _scatter_level(grad_value, start, height * width, entry, weight, go)
    return (
        grad_value if need_value else None,
        grad_location.view_as(locations) if need_samples else None,
        grad_weight.view_as(weights) if need_samples else None,
    )


def _products(table: Tensor, entry: Tensor, go: Tensor) -> Tensor:
    """Scalar products of the gathered corners with the gradient of their row."""
    gathered = table.index_select(0, entry.view(-1)).view(len(go), -1, go.shape[-1])
    # A row times a transposed matrix: several times faster than matrix times column.
    return torch.bmm(go.unsqueeze(1), gathered.transpose(1, 2)).view(entry.shape)


def _scatter_level(
    grad_value: Tensor,
    start: int,
    count: int,
    entry: Tensor,
    weight: Tensor,
    go: Tensor,
) -> None:
    """Write the gradient of one level's values, image by image to save memory."""
    b, places, heads, channels = grad_value.shape
    queries = len(entry) // max(b, 1)
    for image in range(b):
        rows = slice(image * queries, (image + 1) * queries)
        first = (image * places + start) * heads
        rows_of_go = slice(rows.start * heads, rows.stop * heads)
        targets = torch.arange(
            first, first + count * heads, dtype=entry.dtype, device=entry.device
        )
        summed = scatter_sorted(entry[rows], weight[rows], go[rows_of_go], targets)
        grad_value[image, start : start + count] = summed.view(
            count, heads, channels
        ).to(grad_value.dtype)


def scatter_sorted(
    entry: Tensor, weight: Tensor, grad: Tensor, targets: Tensor
) -> Tensor:
    """Add ``weight * grad`` up for each target that ``entry`` names, in a fixed order.

    Shape:
        - entry: n * K elements, the first K belong to the first row of ``grad``
        - weight: as ``entry``
        - grad: (n, D)
        - targets: (T,), without a gap, of which every entry is one
        - output: (T, D)
    """
    per_source = max(entry.numel() // max(len(grad), 1), 1)
    ordered, order = torch.sort(entry.reshape(-1), stable=True)
    bounds = torch.searchsorted(ordered, targets, out_int32=entry.dtype == torch.int32)
    weight = weight.reshape(-1)[order]
    source = order.div_(per_source, rounding_mode='floor').to(entry.dtype)
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
        part = value[:, start : start + places].to(dtype)
        part = part.reshape(b * places * heads, channels)
        image = torch.arange(b, device=value.device).view(-1, 1)
        base = image.expand(b, queries).reshape(b * queries, 1, 1) * places
        where = locations[:, :, :, level].reshape(b * queries, heads, points, 2)
        found = corners(where, (height, width), base)
        rows = part.index_select(0, found.entry.reshape(-1))
        rows = rows.view(b, queries, heads, points * 4, channels)
        factor = weights[:, :, :, level].reshape(b * queries, heads, points, 1)
        factor = (found.weight * factor).view(b, queries, heads, points * 4, 1)
        out = out + (rows * factor).sum(dim=3)
    return out.view(b, queries, heads * channels).to(value.dtype)


def _limit(limits: dict[str, int], tensor: Tensor) -> int:
    return limits.get(tensor.device.type, limits['cuda'])
