"""Criss-cross attention in Triton: maps with their channels as neighbours.

A column of an (N, C, H, W) map has every element in another sector of memory: a kernel
that reads it as it lies moves 8 times (float32) or 16 times (half) what it needs. So
such maps are copied once, in tiles, a slice of channels at a time.
"""

# A kernel is written in Triton's language, in which annotations mean something else.
# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..launching import on
from .triton_forward import program, read, write

_PLACES, _CHANNELS = 64, 64  # of a tile


@triton.jit
def copy_kernel(
    x,
    y,
    length,
    strips,
    blocks,
    channels,
    x_b,
    x_s,
    x_p,
    x_c,
    y_b,
    y_s,
    y_p,
    y_c,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    block, strip, image = program(blocks, strips)
    place = block * BLOCK_P + tl.arange(0, BLOCK_P)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    x += image * x_b + strip * x_s
    value = read(x, place, channel, length, x_p, x_c, channels)
    y += image * y_b + strip * y_s
    write(y, value, place, channel, length, y_p, y_c, channels)


def new_map(like: Tensor, channels: int, dtype: torch.dtype | None = None) -> Tensor:
    """(B, channels, H, W) in new memory, channels as neighbours."""
    b, _, height, width = like.shape
    size = (b, height, width, channels)
    return like.new_empty(size, dtype=dtype).permute(0, 3, 1, 2)


def channels_last(x: Tensor) -> Tensor:
    """The map with its channels as neighbours: itself, or a copy.

    Shape:
        - x: (B, C, H, W)
    """
    if x.stride(1) == 1 or x.shape[1] == 1:
        return x
    return copy(x, new_map(x, x.shape[1]))


def copy(x: Tensor, y: Tensor) -> Tensor:
    """Write one map into another of the same shape, and return that.

    Shape:
        - x, y: (B, C, H, W), any strides and dtypes
    """
    b, channels, height, width = x.shape
    # Rows that follow one another without a gap are one long row.
    joined = all(z.stride(2) == width * z.stride(3) for z in (x, y))
    strips, length = (1, height * width) if joined else (height, width)
    blocks = triton.cdiv(length, _PLACES)
    block_c = min(_CHANNELS, triton.next_power_of_2(channels))
    steps = [[z.stride(i) for i in (0, 2, 3, 1)] for z in (x, y)]
    with on(x.device):
        copy_kernel[(blocks * strips * b, triton.cdiv(channels, block_c))](
            x,
            y,
            length,
            strips,
            blocks,
            channels,
            *steps[0],
            *steps[1],
            BLOCK_P=_PLACES,
            BLOCK_C=block_c,
        )
    return y
