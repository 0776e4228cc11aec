"""Multi-scale deformable attention through the CUDA operation that mmcv compiles.

mmcv rounds coordinates to the dtype of the values and has no bfloat16: values in half
precision are therefore computed in float32 here, and the result is rounded once.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .corners import LevelShapes, starts_of

_STEP = 64  # images that mmcv takes at a time; it must divide the batch


@functools.lru_cache(maxsize=1)
def _extension() -> Any:
    return importlib.import_module('mmcv._ext')


@functools.lru_cache(maxsize=64)
def _levels(
    shapes: tuple[tuple[int, int], ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    return (
        torch.tensor(shapes, dtype=torch.long, device=device),
        torch.tensor(starts_of(shapes), dtype=torch.long, device=device),
    )


def _step(batch: int) -> int:
    return next(s for s in range(min(batch, _STEP), 0, -1) if batch % s == 0)


def _wide(tensors: Sequence[Tensor], value: Tensor) -> list[Tensor]:
    dtype = torch.promote_types(value.dtype, torch.float32)
    return [x.to(dtype).contiguous() for x in tensors]


def forward(
    value: Tensor, shapes: LevelShapes, locations: Tensor, weights: Tensor
) -> Tensor:
    """Sum the weighted samples; shapes as in :func:`.reference.forward`."""
    b, queries = locations.shape[:2]
    if not b:  # which no step divides
        return value.new_zeros((b, queries, value.shape[2] * value.shape[3]))
    sizes, starts = _levels(tuple(shapes), value.device)
    wide = _wide([value, locations, weights], value)
    out = _extension().ms_deform_attn_forward(
        wide[0], sizes, starts, wide[1], wide[2], im2col_step=_step(b)
    )
    return out.to(value.dtype)


def backward(
    grad: Tensor, value: Tensor, shapes: LevelShapes, locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients by value, locations and weights, added up in no fixed order.

    Raises:
        RuntimeError: If torch is asked for deterministic algorithms.
    """
    if torch.are_deterministic_algorithms_enabled():
        raise RuntimeError(
            "multi_scale_deformable_attention: backend got 'mmcv', expected 'triton' "
            "or 'torch' under torch.use_deterministic_algorithms(True): the gradient "
            'of mmcv adds atomically.'
        )
    sizes, starts = _levels(tuple(shapes), value.device)
    inputs = _wide([value, locations, weights], value)
    layout = torch.contiguous_format
    grads = [torch.zeros_like(x, memory_format=layout) for x in inputs]
    if len(value):
        _extension().ms_deform_attn_backward(
            inputs[0],
            sizes,
            starts,
            inputs[1],
            inputs[2],
            *_wide([grad], value),
            *grads,
            im2col_step=_step(len(value)),
        )
    return (
        grads[0].to(value.dtype),
        grads[1].to(locations.dtype),
        grads[2].to(weights.dtype),
    )
