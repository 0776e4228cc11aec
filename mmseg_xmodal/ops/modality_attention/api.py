"""The public function, and the two custom operators under it.

``xmodal::modality`` and ``xmodal::modality_backward`` are opaque to ``torch.compile``:
no graph break, nothing of the back end is traced. Keys and values stay one tensor per
modality, or one of all: no (B * N, M, C) copy is made of either. Gradients of gradients
go through :func:`.reference.composite`, whatever the back end.
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
from . import reference
from .checks import NAME, check

MOST = 8  # modalities that the Triton kernel takes
WIDEST = 4096  # channels of a head that fit into its registers


def modality_attention(
    q: Tensor,
    k: Tensor | Sequence[Tensor],
    v: Tensor | Sequence[Tensor],
    mask: Tensor | None = None,
    *,
    scale: float | None = None,
    return_weights: bool = False,
    backend: str = 'auto',
) -> Tensor | tuple[Tensor, Tensor]:
    """Attend at each place to that place in every modality.

    Args:
        q: Queries.
        k: Keys, one tensor per modality or all on one axis.
        v: Values, likewise.
        mask: Boolean, true where a modality may be attended to. A place whose every
            modality is masked gives zero; what is masked may hold anything, NaN too.
        scale: Factor of the scores; 1 / sqrt(D) if not given.
        return_weights: Return the weights of the modalities too; differentiable.
        backend: ``'auto'``, ``'torch'`` or ``'triton'``. ``'auto'`` is PyTorch until
            all checks of the kernel have run on a GPU, and says so in the log. Triton
            takes up to 8 modalities.

    Shape:
        - q: (B, N, heads, D), N places
        - k: M tensors (B, N, heads, D), or one (B, M, N, heads, D)
        - v: M tensors (B, N, heads, Dv), or one (B, M, N, heads, Dv)
        - mask: (B, M, N), or (B, M) for all places
        - output: (B, N, heads, Dv); weights (B, M, N, heads) in float32 or wider

    Returns:
        The attended values, or a pair of them and the weights; differentiable twice.

    Raises:
        TypeError: For a mask that is not boolean, or a dtype that does not fit.
        ValueError: For shapes that do not add up, or tensors on several devices.
        RuntimeError: If the back end that was asked for is not installed.
    """
    # One tensor of all stays whole: so does its gradient, without a stacking copy.
    keys = [k] if isinstance(k, Tensor) else list(k)
    values = [v] if isinstance(v, Tensor) else list(v)
    check(q, k, v, mask)
    factor = max(q.shape[-1], 1) ** -0.5 if scale is None else float(scale)
    if is_exporting():
        out, weights = reference.composite(q, keys, values, mask, factor)
    else:
        out, weights = torch.ops.xmodal.modality(q, keys, values, mask, factor, backend)
    return (out, weights) if return_weights else out


def _triton() -> Any:
    # Imported at the first use: Triton is an extra, and reads its interpreter switch
    # when a kernel is declared.
    return importlib.import_module('.triton_kernel', __package__)


def _choose(q: Tensor, k: Sequence[Tensor], v: Sequence[Tensor], backend: str) -> str:
    count = len(reference.per_modality(k))
    narrowest, widest = sorted((q.shape[-1], v[0].shape[-1]))
    unfit = None
    if count > MOST:
        unfit = f'the Triton kernel takes up to {MOST} modalities, not {count}'
    elif not 1 <= narrowest <= widest <= WIDEST:
        unfit = (
            f'the Triton kernel takes 1 to {WIDEST} channels, not {narrowest} and '
            f'{widest}'
        )
    return dispatch.choose(NAME, backend, q, argument='q', unfit=unfit, proven=False)


@without_autocast
def _run(
    q: Tensor,
    k: Sequence[Tensor],
    v: Sequence[Tensor],
    mask: Tensor | None,
    scale: float,
    backend: str,
) -> tuple[Tensor, Tensor]:
    if _choose(q, k, v, backend) == 'triton':
        return _triton().forward(q, k, v, mask, scale)
    out, weights = reference.composite(q, k, v, mask, scale)
    return out.contiguous(), weights.contiguous()


@without_autocast
def _run_backward(
    grad: Tensor,
    grad_weights: Tensor | None,
    q: Tensor,
    k: Sequence[Tensor],
    v: Sequence[Tensor],
    mask: Tensor | None,
    weights: Tensor,
    scale: float,
    backend: str,
) -> list[Tensor]:
    arguments = (grad, grad_weights, q, k, v, mask, weights, scale)
    if _choose(q, k, v, backend) == 'triton':
        return _triton().backward(*arguments)
    return reference.backward(*arguments)


_ARGUMENTS = 'Tensor q, Tensor[] k, Tensor[] v, Tensor? mask, '
_forward_op = torch.library.custom_op(
    'xmodal::modality',
    _run,
    mutates_args=(),
    schema=f'({_ARGUMENTS}float scale, str backend) -> (Tensor, Tensor)',
)
_backward_op = torch.library.custom_op(
    'xmodal::modality_backward',
    _run_backward,
    mutates_args=(),
    schema=f'(Tensor grad, Tensor? grad_weights, {_ARGUMENTS}Tensor weights, '
    'float scale, str backend) -> Tensor[]',
)


@_forward_op.register_fake
def _(
    q: Tensor,
    k: Sequence[Tensor],
    v: Sequence[Tensor],
    mask: Tensor | None,
    scale: float,
    backend: str,
) -> tuple[Tensor, Tensor]:
    b, n, heads, _ = q.shape
    wide = torch.promote_types(q.dtype, torch.float32)
    count = len(reference.per_modality(k))
    out = q.new_empty((b, n, heads, v[0].shape[-1]))
    return out, q.new_empty((b, count, n, heads), dtype=wide)


@_backward_op.register_fake
def _(
    grad: Tensor,
    grad_weights: Tensor | None,
    q: Tensor,
    k: Sequence[Tensor],
    v: Sequence[Tensor],
    mask: Tensor | None,
    weights: Tensor,
    scale: float,
    backend: str,
) -> list[Tensor]:
    return [reference.new_like(x) for x in (q, *k, *v)]


def _pack(ctx: Any, tensors: Sequence[Tensor | None], k: Any, v: Any) -> None:
    """Keep single tensors, then the lists; ``None`` stays ``None``."""
    ctx.counts = (len(tensors), len(k))
    ctx.save_for_backward(*tensors, *k, *v)


def _unpack(ctx: Any) -> tuple[list, list[Tensor], list[Tensor]]:
    single, keys = ctx.counts
    saved = list(ctx.saved_tensors)
    return saved[:single], saved[single : single + keys], saved[single + keys :]


def _setup(ctx: Any, inputs: tuple, output: tuple) -> None:
    q, k, v, mask, ctx.scale, ctx.backend = inputs
    # Weights that nobody uses have no gradient, instead of one of zeros.
    ctx.set_materialize_grads(False)
    _pack(ctx, (q, mask, output[1]), k, v)


def _gradient(ctx: Any, grad: Tensor | None, grad_weights: Tensor | None) -> tuple:
    (q, mask, weights), k, v = _unpack(ctx)
    if grad is None and grad_weights is None:
        return None, [None] * len(k), [None] * len(v), None, None, None
    if grad is None:
        grad = q.new_zeros((*q.shape[:-1], v[0].shape[-1]))
    grads = torch.ops.xmodal.modality_backward(
        grad, grad_weights, q, k, v, mask, weights, ctx.scale, ctx.backend
    )
    by_key, by_value = list(grads[1 : 1 + len(k)]), list(grads[1 + len(k) :])
    return grads[0], by_key, by_value, None, None, None


def _setup_backward(ctx: Any, inputs: tuple, output: list) -> None:
    grad, grad_weights, q, k, v, mask, _, ctx.scale, _ = inputs
    _pack(ctx, (grad, grad_weights, q, mask), k, v)


def _second_gradient(ctx: Any, grads: Sequence[Tensor]) -> tuple:
    (grad, grad_weights, q, mask), k, v = _unpack(ctx)
    with torch.enable_grad():
        given = [x for x in (grad, grad_weights) if x is not None]
        given = [x.detach().requires_grad_() for x in given]
        inputs = [x.detach().requires_grad_() for x in (q, *k, *v)]
        keys, values = inputs[1 : 1 + len(k)], inputs[1 + len(k) :]
        results = reference.composite(inputs[0], keys, values, mask, ctx.scale)
        first = torch.autograd.grad(
            results[: len(given)], inputs, given, create_graph=True, allow_unused=True
        )
    used = [(x, g) for x, g in zip(first, grads, strict=True) if x is not None]
    outputs, cotangents = zip(*used, strict=True)
    second = torch.autograd.grad(
        outputs, [*given, *inputs], cotangents, allow_unused=True
    )
    by_given = [*second[: len(given)], None][:2]
    by_input = list(second[len(given) :])
    by_key, by_value = by_input[1 : 1 + len(k)], by_input[1 + len(k) :]
    # The gradient by the weights is in that by q and k already.
    return (*by_given, by_input[0], by_key, by_value, None, None, None, None)


torch.library.register_autograd('xmodal::modality', _gradient, setup_context=_setup)
torch.library.register_autograd(
    'xmodal::modality_backward', _second_gradient, setup_context=_setup_backward
)
