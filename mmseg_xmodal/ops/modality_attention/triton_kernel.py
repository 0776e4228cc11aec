"""Attention over modalities in Triton: how its two kernels are launched.

The forward pass keeps the weights, one number per row and modality; the backward pass
needs no scores then. Nothing is added atomically: the same bits in every run. Offsets
are 64 bits wide where a tensor needs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from ..launching import extent, on
from . import triton_code
from .api import MOST
from .reference import new_like, per_modality

# Rows of a block and warps, for measurements: None takes what `block_shape` says.
tuned: dict[str, tuple[int, int] | None] = {'forward': None, 'backward': None}
_PROGRAMS = 256  # fewer than this leave multiprocessors of a large GPU idle


def block_shape(
    rows: int, widest: int, element_size: int, kind: str
) -> tuple[int, int]:
    """Choose rows of a block, and warps.

    A thread reads 16 bytes of a row at a time; four warps fill a block, fewer where
    there are too few rows to occupy the device.
    """
    setting = tuned[kind]
    if setting is not None:
        return setting
    threads_per_row = max(triton.next_power_of_2(widest) * element_size // 16, 1)
    warps = 4
    while True:
        block_r = max(warps * 32 // threads_per_row, 1)
        if warps == 1 or triton.cdiv(rows, block_r) >= _PROGRAMS:
            return block_r, warps
        warps //= 2


def _readable(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The tensors, with equal strides and neighbouring channels.

    Shape:
        - tensors: (B, N, heads, D) each
    """
    first = tensors[0]
    alike = all(x.stride() == first.stride() for x in tensors)
    if alike and (first.stride(-1) == 1 or first.shape[-1] == 1):
        return list(tensors)
    return [x.contiguous() for x in tensors]


def _padded(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Eight pointers: those of absent modalities are never used."""
    return [*tensors, *[tensors[0]] * (MOST - len(tensors))]


def _masked(mask: Tensor | None, q: Tensor) -> tuple[Tensor, list[int]]:
    """Bytes of the mask and its strides; a dummy without one."""
    if mask is None:
        return q, [0, 0, 0]
    strides = [*mask.stride(), 0] if mask.dim() == 2 else list(mask.stride())
    return mask.view(torch.uint8), strides


def _launch(
    kernel: Any,
    kind: str,
    q: Tensor,
    shapes: tuple[int, int],
    pointers: list[Tensor],
    numbers: list[int | float],
    **options: Any,
) -> None:
    b, places, heads, channels = q.shape
    modalities, values = shapes
    rows, widest = b * places * heads, max(channels, values)
    block_r, warps = block_shape(rows, widest, q.element_size(), kind)
    # The largest offset is that of a padded block beyond the last row.
    most = max(extent(x) for x in pointers) + block_r * (widest + modalities)
    with on(q.device):
        kernel[(triton.cdiv(rows, block_r),)](
            *pointers,
            rows,
            places,
            *numbers,
            HEADS=heads,
            M=modalities,
            D=channels,
            DV=values,
            BLOCK_R=block_r,
            BLOCK_D=triton.next_power_of_2(channels),
            BLOCK_V=triton.next_power_of_2(values),
            WIDE=most >= 2**31,
            num_warps=warps,
            **options,
        )


def forward(
    q: Tensor,
    k: Sequence[Tensor],
    v: Sequence[Tensor],
    mask: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Attend; shapes as in :func:`.reference.composite`."""
    keys, values = per_modality(k), per_modality(v)
    width = values[0].shape[-1]
    out = q.new_empty((*q.shape[:-1], width))
    size = (q.shape[0], len(keys), *q.shape[1:3])
    weights = q.new_empty(size, dtype=torch.float32)
    if not weights.numel():
        return out, weights
    (q,), keys, values = _readable([q]), _readable(keys), _readable(values)
    bits, mask_strides = _masked(mask, q)
    pointers = [q, *_padded(keys), *_padded(values), bits, out, weights]
    strides = [x.stride()[:3] for x in (q, keys[0], values[0])]
    _launch(
        triton_code.forward_kernel,
        'forward',
        q,
        (len(keys), width),
        pointers,
        [scale, *(s for each in strides for s in each), *mask_strides],
        MASKED=mask is not None,
    )
    return out, weights


def backward(
    grad: Tensor,
    grad_weights: Tensor | None,
    q: Tensor,
    k: Sequence[Tensor],
    v: Sequence[Tensor],
    mask: Tensor | None,
    weights: Tensor,
    scale: float,
) -> list[Tensor]:
    """Gradients by q, k and v; see :func:`.reference.backward`."""
    grads = [new_like(x) for x in (q, *k, *v)]
    if not weights.numel():
        return [x.zero_() for x in grads]
    by_key = per_modality(grads[1 : 1 + len(k)])
    by_value = per_modality(grads[1 + len(k) :])
    (q,), keys = _readable([q]), _readable(per_modality(k))
    values, (grad,) = _readable(per_modality(v)), _readable([grad])
    bits, mask_strides = _masked(mask, q)
    weights = weights.contiguous()
    weighted = grad_weights is not None
    kept = weights if grad_weights is None else grad_weights.contiguous()
    pointers = [q, *_padded(keys), *_padded(values), bits, grad, kept, weights]
    pointers += [grads[0], *_padded(by_key), *_padded(by_value)]
    strides = [x.stride()[:3] for x in (q, keys[0], values[0])]
    numbers = [scale, *(s for each in strides for s in each), *mask_strides]
    numbers += [*grad.stride()[:3], by_key[0].stride(0), by_value[0].stride(0)]
    _launch(
        triton_code.backward_kernel,
        'backward',
        q,
        (len(keys), values[0].shape[-1]),
        pointers,
        numbers,
        MASKED=mask is not None,
        WEIGHTED=weighted,
    )
    return grads
