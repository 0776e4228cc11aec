"""Criss-cross attention in Triton: how its kernels are launched.

Columns come first and leave their part in float32; rows add it to their own and write
the result in the dtype and the memory format that it shall have. Values are taken a
slice of channels at a time: what exists beside the results is one slice of the values
and one of the part, and it stays in the second-level cache. Nothing is added
atomically: the same bits in every run.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import triton
from torch import Tensor

from ..launching import on
from .triton_backward import key_kernel, mean_kernel, query_kernel
from .triton_forward import forward_kernel
from .triton_layout import channels_last, copy, new_map

# Queries and keys of a block, warps and stages, for measurements: None takes what
# `block_shape` says; and channels of a slice: None takes what `slice_width` says.
tuned: dict[str, tuple[int, int, int, int] | None] = {
    'forward': None,
    'query': None,
    'key': None,
}
tuned_width: dict[str, int | None] = {'forward': None, 'backward': None}
# float32 products as three of TF32: the error of single precision, on tensor cores.
# 'ieee' multiplies without them.
precision = 'tf32x3'
_PLACES = 32  # of a block of `mean_kernel`


@dataclasses.dataclass(frozen=True)
class _Pass:
    """Rows or columns of one slice of channels.

    Args:
        rows: Whether strips are rows.
        like: A map of the size.
        channels: Of queries, and of the slice of values.
        scale: Factor of the scores.
    """

    rows: bool
    like: Tensor
    channels: tuple[int, int]
    scale: float

    def steps(self, x: Tensor, channel: bool = False) -> list[int]:
        """Strides of a (B, C, H, W) map by image, strip, place and maybe channel."""
        strip, place = (2, 3) if self.rows else (3, 2)
        steps = [x.stride(0), x.stride(strip), x.stride(place)]
        return [*steps, x.stride(1)] if channel else steps

    def launch(
        self, kernel: Any, kind: str, tensors: list[Tensor], steps: list, **flags: bool
    ) -> None:
        b, _, height, width = self.like.shape
        strips, length = (height, width) if self.rows else (width, height)
        d, c = (_power(x) for x in self.channels)
        size = self.like.element_size()
        block_q, block_k, warps, stages = block_shape(length, d, c, size, kind)
        blocks = triton.cdiv(length, block_k if kind == 'key' else block_q)
        with on(self.like.device):
            kernel[(blocks * strips * b,)](
                *tensors,
                length,
                strips,
                blocks,
                self.scale,
                int(self.rows),
                *[step for each in steps for step in each],
                D=self.channels[0],
                C=self.channels[1],
                BLOCK_Q=block_q,
                BLOCK_K=block_k,
                BLOCK_D=d,
                BLOCK_C=c,
                PRECISION=precision if size == 4 else 'ieee',
                num_warps=warps,
                num_stages=stages,
                **flags,
            )


def _power(channels: int) -> int:
    """Channels of a block: a matrix product of Triton takes 16 at least."""
    return max(triton.next_power_of_2(channels), 16)


def block_shape(
    length: int, d: int, c: int, element_size: int, kind: str
) -> tuple[int, int, int, int]:
    """Choose queries and keys of a block, warps, and stages of the pipeline.

    What a block goes through comes in two stages of at most 48 KiB together, and with
    its own part it takes less than the 99 KiB of shared memory that GPUs from 2020 on
    have.
    """
    setting = tuned[kind]
    if setting is not None:
        return setting
    longest = max(triton.next_power_of_2(length), 16)
    place = (d + c) * element_size
    own = min(longest, 64 if place <= 768 else 32 if place <= 1152 else 16)
    through = min(longest, 64 if place <= 384 else 32 if place <= 768 else 16)
    if kind == 'key':
        own, through = through, own
    return own, through, 4, 2


def slice_width(element_size: int, kind: str) -> int:
    """Choose the channels of a slice: as many as fit into registers."""
    width = tuned_width[kind]
    if width is not None:
        return width
    return 64 if element_size == 4 and kind == 'backward' else 128


def _slices(v: Tensor, kind: str) -> list[slice]:
    width = slice_width(v.element_size(), kind)
    return [slice(i, i + width) for i in range(0, v.shape[1], width)]


def _directions(q: Tensor) -> list[bool]:
    """Columns, then rows; a column of one place is that place, which the row has."""
    return [True] if q.shape[2] == 1 else [False, True]


def forward(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Attend; see :func:`.reference.forward`."""
    out = torch.empty_like(v)
    totals = [_plane(q) for _ in range(2)]
    if not totals[0].numel() or not v.shape[1]:
        return out, totals[1].squeeze(1)
    q, k = channels_last(q), channels_last(k)
    for part in _slices(v, 'forward'):
        values = channels_last(v[:, part])
        columns = new_map(q, values.shape[1], torch.float32)
        for rows in _directions(q):
            current = _Pass(rows, q, (q.shape[1], values.shape[1]), scale)
            result, total = (out[:, part], totals[1]) if rows else (columns, totals[0])
            tensors = [q, k, values, columns, totals[0], result, total]
            steps = [current.steps(x) for x in (q, k, values, columns)]
            steps += [current.steps(result, channel=True), current.steps(total)]
            merge = rows and len(_directions(q)) == 2
            current.launch(forward_kernel, 'forward', tensors, steps, MERGE=merge)
    return out, totals[1].squeeze(1)


def _plane(q: Tensor) -> Tensor:
    b, _, height, width = q.shape
    return q.new_empty((b, 1, height, width), dtype=torch.float32)


def backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    total: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients by q, k and v; see :func:`.reference.backward`."""
    grads = [torch.empty_like(x) for x in (q, k, v)]
    if not total.numel() or not v.shape[1]:
        return grads[0].zero_(), grads[1].zero_(), grads[2]
    q, k = channels_last(q), channels_last(k)
    mean, total = _plane(q), total.unsqueeze(1)
    by_q, by_k = (new_map(q, q.shape[1], torch.float32).zero_() for _ in range(2))
    for part in _slices(v, 'backward'):
        values, go = channels_last(v[:, part]), channels_last(grad[:, part])
        columns = new_map(q, values.shape[1], torch.float32)
        _means(go, out[:, part], mean)
        inputs = [q, k, values, go, total, mean]
        for rows in _directions(q):
            current = _Pass(rows, q, (q.shape[1], values.shape[1]), scale)
            steps = [current.steps(x) for x in inputs[:-1]]
            own = [*steps, current.steps(by_q)]
            current.launch(query_kernel, 'query', [*inputs, by_q], own)
            by_v = grads[2][:, part] if rows else columns
            own = [*steps, current.steps(columns), current.steps(by_k)]
            current.launch(
                key_kernel,
                'key',
                [*inputs, columns, by_k, by_v],
                [*own, current.steps(by_v, channel=True)],
                MERGE=rows and len(_directions(q)) == 2,
            )
    return copy(by_q, grads[0]), copy(by_k, grads[1]), grads[2]


def _means(grad: Tensor, out: Tensor, mean: Tensor) -> None:
    """Write the sums over this slice of channels of gradient times result."""
    b, channels, height, width = grad.shape
    blocks = triton.cdiv(width, _PLACES)
    current = _Pass(True, grad, (0, channels), 1.0)
    with on(grad.device):
        mean_kernel[(blocks * height * b,)](
            grad,
            out,
            mean,
            width,
            height,
            blocks,
            *current.steps(grad),
            *current.steps(out, channel=True),
            *current.steps(mean),
            C=channels,
            BLOCK_P=_PLACES,
            BLOCK_C=triton.next_power_of_2(channels),
        )
