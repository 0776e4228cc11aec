"""Multi-scale deformable attention in plain PyTorch, on any device and in any dtype.

A sample is four rows of the value table with four bilinear weights. The forward is
thus one weighted ``embedding_bag`` per block of queries: no sampled value is ever
stored. The gradient of the values is made of bags as well, of output gradients, after
the samples are sorted by the place they fall on; so it is deterministic. Coordinates
and sums are float32 (float64 for float64 values) whatever the dtype of the values. A
sample outside reads some value of its level with the weight 0, which hides no NaN.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .corners import Corners, LevelShapes, accumulator, corners, starts_of
from .scatter import add_up

# Corners held at a time, and channels gathered at a time: small enough for the cache of
# a CPU core, and to get used memory again (glibc maps 32 MiB anew each time), large
# enough to fill a GPU.
_CORNERS = {'cpu': 1 << 18, 'cuda': 1 << 24}
_GATHERED = {'cpu': 1 << 21, 'cuda': 1 << 26}


class _Samples:
    """All samples by rows (image, query and head), and the table they read.

    Shape:
        - locations: (rows, L, P, 2)
        - weights: (rows, L, P)
        - table: (B * S * H, D), in the dtype of the sums
        - head: (rows, 1), number of the head
        - base: (rows, 1), row of the table where image and head begin
    """

    def __init__(
        self,
        value: Tensor,
        shapes: LevelShapes,
        locations: Tensor,
        weights: Tensor,
        index_dtype: torch.dtype | None = None,
    ) -> None:
        b, places, self.heads, self.channels = value.shape
        queries, self.levels, self.points = (locations.shape[i] for i in (1, 3, 4))
        self.shapes, self.starts = list(shapes), starts_of(shapes)
        self.dtype, self.device = accumulator(value), value.device
        self.rows = b * queries * self.heads
        self.locations = locations.reshape(self.rows, self.levels, self.points, 2)
        self.weights = weights.reshape(self.rows, self.levels, self.points)
        self.table = value.to(self.dtype).reshape(
            b * places * self.heads, self.channels
        )
        if index_dtype is None:
            # A level has up to four times as many cells as places; samples are counted.
            largest = max(4 * b * places * self.heads, self.rows * self.points)
            small = largest < 2**31
            index_dtype = torch.int32 if small else torch.int64
        self.index_dtype = index_dtype
        image = torch.arange(b, dtype=self.index_dtype, device=self.device)
        head = torch.arange(self.heads, dtype=self.index_dtype, device=self.device)
        # Expanded: of repeats, a dynamic number is exported to ONNX in a wrong way.
        rows = (b, queries, self.heads)
        base = image.view(-1, 1, 1) * (places * self.heads) + head
        self.head = head.expand(rows).reshape(-1, 1)
        self.base = base.expand(rows).reshape(-1, 1)

    def blocks(self, limit: int, per_row: int) -> list[slice]:
        step = max(limit // max(per_row, 1), 1)
        return [slice(i, min(i + step, self.rows)) for i in range(0, self.rows, step)]

    def used_levels(self) -> list[int]:
        if not self.points * self.heads * self.channels:
            return []
        return [i for i, (h, w) in enumerate(self.shapes) if h * w]

    def level_table(self, levels: list[int]) -> list[Tensor]:
        """Height, width and start of the level of each sample, without a transfer."""
        repeats = self.points if len(levels) > 1 else 1
        options: Any = dict(dtype=self.index_dtype, device=self.device)
        rows = [(*self.shapes[level], self.starts[level]) for level in levels]
        return [
            torch.cat([torch.full((repeats,), x, **options) for x in column])
            for column in zip(*rows, strict=True)
        ]

    def locate(
        self, block: slice, levels: list[int], table: list[Tensor]
    ) -> tuple[Corners, Tensor]:
        """Corners of the samples on some levels, and their weights (n, K).

        ``table`` is the :meth:`level_table` of these levels; K = len(levels) * P.
        """
        locations, weights = self.locations[block], self.weights[block]
        if len(levels) == 1:  # a view
            chosen = slice(levels[0], levels[0] + 1)
            locations, weights = locations[:, chosen], weights[:, chosen]
        elif len(levels) < self.levels:
            locations, weights = locations[:, levels], weights[:, levels]
        where = locations.flatten(1, 2).to(self.dtype)
        height, width, start = table
        found = corners(where, height, width, start, self.base[block], self.heads)
        return found, weights.flatten(1).to(self.dtype)


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
    out = value.new_zeros((samples.rows, channels), dtype=samples.dtype)
    used = samples.used_levels()
    if used:
        table = samples.level_table(used)
        per_row = len(used) * samples.points * 4
        for block in samples.blocks(_limit(_CORNERS, value), per_row):
            found, factor = samples.locate(block, used, table)
            out[block] = F.embedding_bag(
                found.entry.flatten(1),
                samples.table,
                per_sample_weights=found.weights(factor).flatten(1),
                mode='sum',
            )
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
    channels, points = samples.channels, samples.points
    # Expanded gradients, as of a sum, have strides of 0 that products are slow with.
    go = grad.to(samples.dtype).contiguous().view(samples.rows, channels)
    # Contiguous, as the fake of the operator promises, whatever the inputs are.
    layout = torch.contiguous_format
    grad_value = torch.zeros_like(value, memory_format=layout)
    grad_location = torch.zeros_like(samples.locations, memory_format=layout)
    grad_weight = torch.zeros_like(samples.weights, memory_format=layout)
    limit = min(_limit(_CORNERS, value), _limit(_GATHERED, value) // max(channels, 1))
    for level in samples.used_levels():
        height, width = samples.shapes[level]
        table = samples.level_table([level])
        rows = samples.rows if need_value else 0
        cell = torch.empty((rows, points), dtype=samples.index_dtype, device=go.device)
        weight = torch.empty((rows, points, 4), dtype=go.dtype, device=go.device)
        for block in samples.blocks(limit, points * 4):
            found, factor = samples.locate(block, [level], table)
            if need_value:
                inside = found.cells(width, cell.dtype)
                cell[block] = inside * samples.heads + samples.head[block]
                weight[block] = found.weights(factor, dim=2)
            if not need_samples:
                continue
            dots = _products(samples.table, found.entry, go[block])
            by_weight, by_x, by_y = found.gradients(dots)
            grad_weight[block, level] = by_weight.to(weights.dtype)
            by_both = torch.stack([by_x * factor * width, by_y * factor * height], -1)
            grad_location[block, level] = by_both.to(locations.dtype)
        if need_value and len(value):
            places = slice(
                samples.starts[level], samples.starts[level] + height * width
            )
            size, per_image = (height, width, samples.heads), len(cell) // len(value)
            for image, into in enumerate(grad_value):  # apart, to save memory
                own = slice(image * per_image, (image + 1) * per_image)
                summed = add_up(cell[own], weight[own], go[own], size)
                into[places] = summed.flatten(0, 1).to(value.dtype)
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


def composite(
    value: Tensor, shapes: LevelShapes, locations: Tensor, weights: Tensor
) -> Tensor:
    """Compute the same from operations that PyTorch differentiates any number of times.

    For gradients of gradients and for export; it stores the gathered corners.

    Shape:
        - as :func:`forward`
    """
    b, _, heads, channels = value.shape
    # A graph for any size takes no dtype by the size.
    samples = _Samples(value, shapes, locations, weights, torch.int64)
    out = value.new_zeros((samples.rows, channels), dtype=samples.dtype)
    for level in samples.used_levels():
        table = samples.level_table([level])
        found, factor = samples.locate(slice(None), [level], table)
        rows = samples.table.index_select(0, found.entry.flatten())
        rows = rows.view(samples.rows, samples.points * 4, channels)
        factor = found.weights(factor).flatten(1)
        # No matrix product: autocast would round it.
        out = out + (rows * factor.unsqueeze(2)).sum(dim=1)
    return out.view(b, locations.shape[1], heads * channels).to(value.dtype)


def _limit(limits: dict[str, int], tensor: Tensor) -> int:
    return limits.get(tensor.device.type, limits['cuda'])
