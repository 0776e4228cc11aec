"""The public function, and the two custom operators under it.

``xmodal::msda`` and ``xmodal::msda_backward`` are opaque to ``torch.compile``: no graph
break, nothing of the back end is traced. Gradients of gradients go through
:func:`.reference.composite`, whatever the back end.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import dispatch
from ..exporting import is_exporting
from ..precision import without_autocast
from . import mmcv_backend, reference
from .checks import NAME, check, level_pairs
from .corners import LevelShapes

_OFFERED = ('torch', 'triton', 'mmcv')


def multi_scale_deformable_attention(
    value: Tensor,
    level_shapes: LevelShapes,
    locations: Tensor,
    weights: Tensor,
    backend: str = 'auto',
) -> Tensor:
    """Sum weighted bilinear samples of several levels.

    A location (x, y) in [0, 1] lies at (x * w - 0.5, y * h - 0.5) in pixels, as
    ``grid_sample`` with ``align_corners=False``; what is outside of a level is zero.
    From Deformable DETR, 2020, https://arxiv.org/abs/2010.04159.

    Args:
        value: Values of all levels, one after another, row by row. Any floating dtype.
            Finite: the PyTorch form may read them with the weight 0.
        level_shapes: (height, width) of each level; 0 for an empty one.
        locations: Where to sample, in fractions of each level; float32 or float64, for
            half precision is off by a third of a pixel on wide maps.
        weights: Factor of each sample. Any floating dtype.
        backend: ``'auto'``, ``'torch'``, ``'triton'`` or ``'mmcv'``.

    Shape:
        - value: (B, S, H, D), S places of all levels, H heads
        - locations: (B, Q, H, L, P, 2), P points on each of L levels, (x, y)
        - weights: (B, Q, H, L, P)
        - output: (B, Q, H * D), in the dtype of ``value``

    Returns:
        The sums; differentiable twice by value, locations and weights.

    Raises:
        TypeError: For a dtype that does not fit.
        ValueError: For shapes that do not add up, or tensors on several devices.
        RuntimeError: If the back end that was asked for is not installed.
    """
    shapes = level_pairs(level_shapes)
    check(value, shapes, locations, weights)
    if is_exporting():
        return reference.composite(value, shapes, locations, weights)
    flat = [side for shape in shapes for side in shape]
    return torch.ops.xmodal.msda(value, flat, locations, weights, backend)


def _pairs(flat: Sequence[int]) -> list[tuple[int, int]]:
    return list(zip(flat[::2], flat[1::2], strict=True))


def _triton() -> Any:
    # Imported at the first use: Triton is an extra, and reads its interpreter switch
    # when a kernel is declared.
    return importlib.import_module('.triton_kernel', __package__)


@without_autocast
def _run(
    value: Tensor,
    level_shapes: Sequence[int],
    locations: Tensor,
    weights: Tensor,
    backend: str,
) -> Tensor:
    arguments = (value, _pairs(level_shapes), locations, weights)
    choice = dispatch.choose(NAME, backend, value, _OFFERED)
    if choice == 'triton':
        return _triton().forward(*arguments)
    if choice == 'mmcv':
        return mmcv_backend.forward(*arguments)
    return reference.forward(*arguments)


@without_autocast
def _run_backward(
    grad: Tensor,
    value: Tensor,
    level_shapes: Sequence[int],
    locations: Tensor,
    weights: Tensor,
    backend: str,
    need_value: bool,
    need_samples: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    arguments = (grad, value, _pairs(level_shapes), locations, weights)
    choice = dispatch.choose(NAME, backend, value, _OFFERED)
    found: Sequence[Tensor | None]
    if choice == 'triton':
        found = _triton().backward(*arguments, need_value, need_samples)
    elif choice == 'mmcv':
        found = mmcv_backend.backward(*arguments)
    else:
        found = reference.backward(*arguments, need_value, need_samples)
    needs = (need_value, need_samples, need_samples)
    # An operator returns tensors: an empty one stands for what nobody asked for.
    kept = [
        value.new_empty(0) if x is None or not needed else x
        for x, needed in zip(found, needs, strict=True)
    ]
    return kept[0], kept[1], kept[2]


_ARGUMENTS = (
    'Tensor value, SymInt[] level_shapes, Tensor locations, Tensor weights, str backend'
)
_forward_op = torch.library.custom_op(
    'xmodal::msda', _run, mutates_args=(), schema=f'({_ARGUMENTS}) -> Tensor'
)
_backward_op = torch.library.custom_op(
    'xmodal::msda_backward',
    _run_backward,
    mutates_args=(),
    schema=f'(Tensor grad, {_ARGUMENTS}, bool need_value, bool need_samples) -> '
    '(Tensor, Tensor, Tensor)',
)


@_forward_op.register_fake
def _(
    value: Tensor,
    level_shapes: Sequence[int],
    locations: Tensor,
    weights: Tensor,
    backend: str,
) -> Tensor:
    b, _, heads, channels = value.shape
    return value.new_empty((b, locations.shape[1], heads * channels))


@_backward_op.register_fake
def _(
    grad: Tensor,
    value: Tensor,
    level_shapes: Sequence[int],
    locations: Tensor,
    weights: Tensor,
    backend: str,
    need_value: bool,
    need_samples: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        value.new_empty(value.shape if need_value else 0),
        locations.new_empty(locations.shape) if need_samples else value.new_empty(0),
        weights.new_empty(weights.shape) if need_samples else value.new_empty(0),
    )


def _setup(ctx: Any, inputs: tuple, output: Tensor) -> None:
    value, ctx.level_shapes, locations, weights, ctx.backend = inputs
    ctx.save_for_backward(value, locations, weights)


def _gradient(ctx: Any, grad: Tensor) -> tuple:
    value, locations, weights = ctx.saved_tensors
    need_value = ctx.needs_input_grad[0]
    by_location, by_weight = ctx.needs_input_grad[2], ctx.needs_input_grad[3]
    grads = torch.ops.xmodal.msda_backward(
        grad,
        value,
        ctx.level_shapes,
        locations,
        weights,
        ctx.backend,
        need_value,
        by_location or by_weight,
    )
    return (
        grads[0] if need_value else None,
        None,
        grads[1] if by_location else None,
        grads[2] if by_weight else None,
        None,
    )


def _setup_backward(ctx: Any, inputs: tuple, output: tuple) -> None:
    grad, value, ctx.level_shapes, locations, weights, _, *ctx.needs = inputs
    ctx.save_for_backward(grad, value, locations, weights)


def _second_gradient(ctx: Any, *grads: Tensor) -> tuple:
    grad, *tensors = ctx.saved_tensors
    shapes = _pairs(ctx.level_shapes)
    needs = (ctx.needs[0], ctx.needs[1], ctx.needs[1])
    with torch.enable_grad():
        inputs = [x.detach().requires_grad_() for x in (grad, *tensors)]
        value, locations, weights = inputs[1:]
        composite = without_autocast(reference.composite)
        out = composite(value, shapes, locations, weights)
        if not out.requires_grad:  # without samples it depends on nothing
            return (None,) * 8
        wanted = [x for x, needed in zip(inputs[1:], needs, strict=True) if needed]
        first = torch.autograd.grad(out, wanted, inputs[0], create_graph=True)
    second = torch.autograd.grad(
        first,
        inputs,
        [g for g, needed in zip(grads, needs, strict=True) if needed],
        allow_unused=True,
    )
    by_grad, by_value, by_location, by_weight = second
    return (by_grad, by_value, None, by_location, by_weight, None, None, None)


torch.library.register_autograd('xmodal::msda', _gradient, setup_context=_setup)
torch.library.register_autograd(
    'xmodal::msda_backward', _second_gradient, setup_context=_setup_backward
)
