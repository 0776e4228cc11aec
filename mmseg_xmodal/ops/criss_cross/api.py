"""Criss-cross attention: each place attends to its row and its column.

From CCNet, 2018, https://arxiv.org/abs/1811.11721. The public function, and the two
custom operators under it: ``xmodal::criss_cross`` and ``xmodal::criss_cross_backward``
are opaque to ``torch.compile``. Gradients of gradients go through
:func:`.reference.composite`, whatever the back end.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from .. import dispatch
from ..exporting import is_exporting
from ..launching import extent
from ..precision import without_autocast
from . import reference

NAME = 'criss_cross_attention'
WIDEST = 256  # channels of queries and keys that the Triton kernels take


def criss_cross_attention(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float = 1.0, backend: str = 'auto'
) -> Tensor:
    """Attend to the row and the column of each place, itself counted once.

    Scores and sums of exponentials are float32 whatever the dtype.

    Args:
        q: Queries.
        k: Keys.
        v: Values; their channels may differ.
        scale: Factor of the scores; CCNet has none.
        backend: ``'auto'``, ``'torch'`` or ``'triton'``. ``'auto'`` is PyTorch until
            all checks of the kernels have run on a GPU, and says so in the log.
            Triton takes up to 256 channels of queries.

    Shape:
        - q: (B, D, H, W)
        - k: (B, D, H, W)
        - v: (B, C, H, W)
        - output: (B, C, H, W), in the memory format of ``v``

    Returns:
        The attended values; differentiable twice.

    Raises:
        TypeError: For a dtype that does not fit.
        ValueError: For shapes that do not add up, or tensors on several devices.
        RuntimeError: If the back end that was asked for is not installed.
    """
    _check(q, k, v)
    if is_exporting():
        return reference.composite(q, k, v, scale)
    return torch.ops.xmodal.criss_cross(q, k, v, scale, backend)[0]


def _triton() -> Any:
    # Imported at the first use: Triton is an extra, and reads its interpreter switch
    # when a kernel is declared.
    return importlib.import_module('.triton_kernel', __package__)


def _choose(q: Tensor, k: Tensor, v: Tensor, backend: str) -> str:
    unfit = None
    if not 1 <= q.shape[1] <= WIDEST:
        unfit = f'the Triton kernel takes 1 to {WIDEST} channels of q, not {q.shape[1]}'
    elif max(extent(x[:1]) for x in (q, k, v)) >= 2**31:
        unfit = 'an image has 2**31 elements or more, and the Triton kernel 32 bits'
    return dispatch.choose(NAME, backend, q, argument='q', unfit=unfit, proven=False)


@without_autocast
def _run(
    q: Tensor, k: Tensor, v: Tensor, scale: float, backend: str
) -> tuple[Tensor, Tensor]:
    if _choose(q, k, v, backend) == 'triton':
        return _triton().forward(q, k, v, scale)
    return reference.forward(q, k, v, scale)


@without_autocast
def _run_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    total: Tensor,
    scale: float,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    if _choose(q, k, v, backend) == 'triton':
        return _triton().backward(grad, q, k, v, out, total, scale)
    return reference.backward(grad, q, k, v, out, total, scale)


_forward_op = torch.library.custom_op(
    'xmodal::criss_cross',
    _run,
    mutates_args=(),
    schema='(Tensor q, Tensor k, Tensor v, float scale, str backend) -> '
    '(Tensor, Tensor)',
)
_backward_op = torch.library.custom_op(
    'xmodal::criss_cross_backward',
    _run_backward,
    mutates_args=(),
    schema='(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor out, Tensor total, '
    'float scale, str backend) -> (Tensor, Tensor, Tensor)',
)


@_forward_op.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, scale: float, backend: str
) -> tuple[Tensor, Tensor]:
    b, _, height, width = q.shape
    wide = torch.promote_types(q.dtype, torch.float32)
    return torch.empty_like(v), q.new_empty((b, height, width), dtype=wide)


@_backward_op.register_fake
def _(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    total: Tensor,
    scale: float,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _setup(ctx: Any, inputs: tuple, output: tuple) -> None:
    q, k, v, ctx.scale, ctx.backend = inputs
    ctx.save_for_backward(q, k, v, *output)
    ctx.mark_non_differentiable(output[1])


def _gradient(ctx: Any, grad: Tensor, _: Tensor) -> tuple:
    grads = torch.ops.xmodal.criss_cross_backward(
        grad, *ctx.saved_tensors, ctx.scale, ctx.backend
    )
    return (*grads, None, None)


def _setup_backward(ctx: Any, inputs: tuple, output: tuple) -> None:
    grad, q, k, v, _, _, ctx.scale, _ = inputs
    ctx.save_for_backward(grad, q, k, v)


def _second_gradient(ctx: Any, *grads: Tensor) -> tuple:
    with torch.enable_grad():
        inputs = [x.detach().requires_grad_() for x in ctx.saved_tensors]
        composite = without_autocast(reference.composite)
        out = composite(inputs[1], inputs[2], inputs[3], ctx.scale)
        first = torch.autograd.grad(out, inputs[1:], inputs[0], create_graph=True)
    second = torch.autograd.grad(first, inputs, grads, allow_unused=True)
    # The gradient by `out` and `total` is in that by q, k and v already.
    return (*second, None, None, None, None)


torch.library.register_autograd('xmodal::criss_cross', _gradient, setup_context=_setup)
torch.library.register_autograd(
    'xmodal::criss_cross_backward', _second_gradient, setup_context=_setup_backward
)


def _check(q: Tensor, k: Tensor, v: Tensor) -> None:
    if q.dim() != 4:
        raise ValueError(
            f'{NAME}: q got the shape {tuple(q.shape)}, expected 4 axes (B, D, H, W). '
            'Pass maps, not tokens.'
        )
    if k.shape != q.shape:
        raise ValueError(
            f'{NAME}: k got the shape {tuple(k.shape)}, expected that of q '
            f'{tuple(q.shape)}. Project both to the same channels, from one map.'
        )
    b, _, height, width = q.shape
    if v.dim() != 4 or (v.shape[0], *v.shape[2:]) != (b, height, width):
        raise ValueError(
            f'{NAME}: v got the shape {tuple(v.shape)}, expected '
            f'({b}, C, {height}, {width}) as q. Take it from the same map.'
        )
    if not q.is_floating_point() or not q.dtype == k.dtype == v.dtype:
        raise TypeError(
            f'{NAME}: q, k and v got {q.dtype}, {k.dtype} and {v.dtype}, expected one '
            'floating dtype. Convert them with .to().'
        )
    if not q.device == k.device == v.device:
        raise ValueError(
            f"{NAME}: q, k and v got tensors on '{q.device}', '{k.device}' and "
            f"'{v.device}', expected one device. Move them with .to()."
        )
