"""Multi-scale deformable attention as Triton kernels for CUDA.

A program takes a block of rows (image, query, head, in that order, so that neighbours
share queries and their reads and writes are contiguous) times all channels of a head.
Coordinates, weights and sums are float32 in registers; values are read in their own
dtype, four corners per sample, without reading what lies outside. The gradient of the
values is added up atomically in a float32 buffer and rounded once; under
``torch.use_deterministic_algorithms(True)`` it comes from the sorted sum of the
reference instead. Offsets are 64 bits wide where a tensor needs it.
"""

# A kernel is written in Triton's language, in which annotations mean something else.
# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import functools
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..launching import on
from . import reference
from .corners import LevelShapes, starts_of

# Rows of a block and warps, for measurements: None takes what `block_shape` says.
tuned: dict[str, tuple[int, int] | None] = {'forward': None, 'backward': None}
_PROGRAMS = 256  # fewer than this leave multiprocessors of a large GPU idle


@triton.jit
def _axis(position, size):
    """First place of a pair of neighbours, the fraction, and which of them exist."""
    first = tl.floor(position)
    place = first.to(tl.int32)
    return place, position - first, place >= 0, place < size - 1


@triton.jit
def _locate(locations, weights, at, alive, height, width):
    """Coordinates in pixels and weight of one sample per row; 0 where it is outside."""
    x = tl.load(locations + 2 * at, mask=alive, other=0.0) * width - 0.5
    y = tl.load(locations + 2 * at + 1, mask=alive, other=0.0) * height - 0.5
    factor = tl.load(weights + at, mask=alive, other=0.0).to(tl.float32)
    inside = (x > -1) & (x < width) & (y > -1) & (y < height) & alive
    return tl.where(inside, x, 0.0), tl.where(inside, y, 0.0), factor, inside


@triton.jit
def _forward_kernel(
    value,
    levels,
    locations,
    weights,
    out,
    rows,
    rows_per_image,
    places,
    HEADS: tl.constexpr,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
    WIDE: tl.constexpr,
):
    row = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    if WIDE:
        row = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    alive = row < rows
    channel = tl.arange(0, BLOCK_C)[None, :]
    real = channel < CHANNELS
    table = (row // rows_per_image) * places * HEADS + row % HEADS
    total = tl.zeros((BLOCK_R, BLOCK_C), dtype=tl.float32)
    for level in range(LEVELS):
        height = tl.load(levels + 3 * level)
        width = tl.load(levels + 3 * level + 1)
        start = tl.load(levels + 3 * level + 2)
        for point in tl.static_range(POINTS):
            at = (row * LEVELS + level) * POINTS + point
            x, y, factor, inside = _locate(locations, weights, at, alive, height, width)
            column, fx, has_left, has_right = _axis(x, width)
            line, fy, has_top, has_bottom = _axis(y, height)
            corner = table + (start + line * width + column) * HEADS
            here = value + corner[:, None] * CHANNELS + channel
            right = HEADS * CHANNELS
            below = width * HEADS * CHANNELS
            ok = (inside & has_left & has_top)[:, None] & real
            v00 = tl.load(here, mask=ok, other=0.0).to(tl.float32)
            ok = (inside & has_right & has_top)[:, None] & real
            v01 = tl.load(here + right, mask=ok, other=0.0).to(tl.float32)
            ok = (inside & has_left & has_bottom)[:, None] & real
            v10 = tl.load(here + below, mask=ok, other=0.0).to(tl.float32)
            ok = (inside & has_right & has_bottom)[:, None] & real
            v11 = tl.load(here + below + right, mask=ok, other=0.0).to(tl.float32)
            total += (factor * (1 - fy) * (1 - fx))[:, None] * v00
            total += (factor * (1 - fy) * fx)[:, None] * v01
            total += (factor * fy * (1 - fx))[:, None] * v10
            total += (factor * fy * fx)[:, None] * v11
    where = out + row[:, None] * CHANNELS + channel
    tl.store(where, total.to(out.dtype.element_ty), mask=alive[:, None] & real)


@triton.jit
def _corner(here, grad_value, place, go, factor, ok, real, SCATTER: tl.constexpr):
    """Product of a corner with the output gradient, and its own gradient."""
    mask = ok[:, None] & real
    if SCATTER:
        tl.atomic_add(
            grad_value + place, factor[:, None] * go, mask=mask, sem='relaxed'
        )
    v = tl.load(here + place, mask=mask, other=0.0).to(tl.float32)
    return tl.sum(v * go, axis=1)


@triton.jit
def _backward_kernel(
    grad,
    value,
    levels,
    locations,
    weights,
    grad_value,
    grad_locations,
    grad_weights,
    rows,
    rows_per_image,
    places,
    HEADS: tl.constexpr,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
    WIDE: tl.constexpr,
    SCATTER: tl.constexpr,
):
    row = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    if WIDE:
        row = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    alive = row < rows
    channel = tl.arange(0, BLOCK_C)[None, :]
    real = channel < CHANNELS
    table = (row // rows_per_image) * places * HEADS + row % HEADS
    mask = alive[:, None] & real
    go = tl.load(grad + row[:, None] * CHANNELS + channel, mask=mask, other=0.0)
    go = go.to(tl.float32)
    for level in range(LEVELS):
        height = tl.load(levels + 3 * level)
        width = tl.load(levels + 3 * level + 1)
        start = tl.load(levels + 3 * level + 2)
        for point in tl.static_range(POINTS):
            at = (row * LEVELS + level) * POINTS + point
            x, y, factor, inside = _locate(locations, weights, at, alive, height, width)
            column, fx, has_left, has_right = _axis(x, width)
            line, fy, has_top, has_bottom = _axis(y, height)
            corner = table + (start + line * width + column) * HEADS
            place = corner[:, None] * CHANNELS + channel
            right = HEADS * CHANNELS
            below = width * HEADS * CHANNELS
            ok = inside & has_left & has_top
            part = factor * (1 - fy) * (1 - fx)
            s00 = _corner(value, grad_value, place, go, part, ok, real, SCATTER)
            ok = inside & has_right & has_top
            part = factor * (1 - fy) * fx
            s01 = _corner(value, grad_value, place + right, go, part, ok, real, SCATTER)
            ok = inside & has_left & has_bottom
            part = factor * fy * (1 - fx)
            s10 = _corner(value, grad_value, place + below, go, part, ok, real, SCATTER)
            ok = inside & has_right & has_bottom
            part = factor * fy * fx
            place += below + right
            s11 = _corner(value, grad_value, place, go, part, ok, real, SCATTER)
            top, bottom = s00 + fx * (s01 - s00), s10 + fx * (s11 - s10)
            by_x = (1 - fy) * (s01 - s00) + fy * (s11 - s10)
            by_weight = top + fy * (bottom - top)
            tl.store(grad_weights + at, by_weight, mask=alive)
            tl.store(grad_locations + 2 * at, factor * width * by_x, mask=alive)
            by_y = factor * height * (bottom - top)
            tl.store(grad_locations + 2 * at + 1, by_y, mask=alive)


def block_shape(
    rows: int, channels: int, element_size: int, kind: str
) -> tuple[int, int, int]:
    """Choose rows and channels of a block, and warps.

    A thread reads 16 bytes of a row at a time; four warps fill a block, fewer where
    there are too few rows to occupy the device.
    """
    block_c = triton.next_power_of_2(channels)
    setting = tuned[kind]
    if setting is not None:
        return setting[0], block_c, setting[1]
    threads_per_row = max(block_c * element_size // 16, 1)
    warps = 4
    while True:
        block_r = max(warps * 32 // threads_per_row, 1)
        if warps == 1 or triton.cdiv(rows, block_r) >= _PROGRAMS:
            return block_r, block_c, warps
        warps //= 2


@functools.lru_cache(maxsize=256)
def _levels(shapes: tuple[tuple[int, int], ...], device: torch.device) -> Tensor:
    """(height, width, start) of each level; kept, so that no later call waits."""
    starts = starts_of(shapes)
    rows = [[*shape, start] for shape, start in zip(shapes, starts, strict=True)]
    return torch.tensor(rows, dtype=torch.int32, device=device)


def _launch(
    kernel: Any, kind: str, tensors: list[Tensor], sizes: tuple, **options: Any
) -> None:
    value, locations = sizes[0], sizes[1]
    b, places, heads, channels = value.shape
    queries, levels, points = (locations.shape[i] for i in (1, 3, 4))
    rows = b * queries * heads
    block_r, block_c, warps = block_shape(rows, channels, value.element_size(), kind)
    # The largest offset is that of a padded block beyond the last row.
    padded = (rows + block_r) * max(levels * points * 2, block_c)
    wide = max(value.numel() + block_c, padded) >= 2**31
    with on(value.device):
        kernel[(triton.cdiv(rows, block_r),)](
            *tensors,
            rows,
            queries * heads,
            places,
            HEADS=heads,
            LEVELS=levels,
            POINTS=points,
            CHANNELS=channels,
            BLOCK_R=block_r,
            BLOCK_C=block_c,
            WIDE=wide,
            num_warps=warps,
            **options,
        )


def forward(
    value: Tensor, shapes: LevelShapes, locations: Tensor, weights: Tensor
) -> Tensor:
    """Sum the weighted samples; shapes as in :func:`.reference.forward`."""
    b, _, heads, channels = value.shape
    out = value.new_empty((b, locations.shape[1], heads * channels))
    if not out.numel():
        return out
    value, weights = value.contiguous(), weights.contiguous()
    locations = locations.to(torch.float32).contiguous()
    levels = _levels(tuple(shapes), value.device)
    tensors = [value, levels, locations, weights, out]
    _launch(_forward_kernel, 'forward', tensors, (value, locations))
    return out


def backward(
    grad: Tensor,
    value: Tensor,
    shapes: LevelShapes,
    locations: Tensor,
    weights: Tensor,
    need_value: bool = True,
    need_samples: bool = True,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients by value, locations and weights; see :func:`.reference.backward`."""
    inputs = (grad, value, shapes, locations, weights)
    sorted_sum = need_value and torch.are_deterministic_algorithms_enabled()
    summed = reference.backward(*inputs, True, False)[0] if sorted_sum else None
    if sorted_sum and not need_samples:
        return summed, None, None
    dtype = locations.dtype
    value, weights, grad = value.contiguous(), weights.contiguous(), grad.contiguous()
    locations = locations.to(torch.float32).contiguous()
    scatter = need_value and not sorted_sum
    # Without the scatter the pointer is not used.
    grad_value = torch.zeros_like(value, dtype=torch.float32) if scatter else value
    # Without a channel no kernel runs, and nothing depends on a sample.
    new = torch.empty_like if grad.numel() else torch.zeros_like
    grad_locations, grad_weights = new(locations), new(weights)
    if grad.numel():
        levels = _levels(tuple(shapes), value.device)
        tensors = [grad, value, levels, locations, weights]
        tensors += [grad_value, grad_locations, grad_weights]
        sizes = (value, locations)
        _launch(_backward_kernel, 'backward', tensors, sizes, SCATTER=scatter)
    if need_value and not sorted_sum:
        summed = grad_value.to(value.dtype)
    return summed, grad_locations.to(dtype), grad_weights
