"""Criss-cross attention: each place attends to its row and its column.

From CCNet, 2018, https://arxiv.org/abs/1811.11721. Rows and columns are two attentions
of their own, the place itself counted in the row only; their results are merged by the
logarithms of their sums of exponentials, which is the softmax over both. Scores exist
for a few strips at a time, in the backward pass too, where they are computed again:
memory is that of the result instead of H * W * (H + W) scores.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

NAME = 'criss_cross_attention'
# Scores, or channels of the strips, held at a time: 4 MiB and 32 MiB of float32.
_HELD = {'cpu': 1 << 20, 'cuda': 1 << 23}
_exporting = getattr(torch.compiler, 'is_exporting', lambda: False)


def criss_cross_attention(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float = 1.0
) -> Tensor:
    """Attend to the row and the column of each place, itself counted once.

    Scores and sums of exponentials are float32 whatever the dtype.

    Args:
        q: Queries.
        k: Keys.
        v: Values; their channels may differ.
        scale: Factor of the scores; CCNet has none.

    Shape:
        - q: (B, D, H, W)
        - k: (B, D, H, W)
        - v: (B, C, H, W)
        - output: (B, C, H, W)

    Raises:
        TypeError: For differing or integer dtypes.
        ValueError: For shapes that do not add up.
    """
    _check(q, k, v)
    if _exporting() or torch.onnx.is_in_onnx_export():
        return composite(q, k, v, scale)
    return torch.ops.xmodal.criss_cross(q, k, v, scale)[0]


def composite(q: Tensor, k: Tensor, v: Tensor, scale: float = 1.0) -> Tensor:
    """Compute the same with all scores at once, for export and second gradients.

    Shape:
        - as :func:`criss_cross_attention`
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    height, width = q.shape[2:]
    a, b = q.to(wide) * scale, k.to(wide)
    itself = torch.eye(height, dtype=torch.bool, device=q.device)[:, None]
    column = torch.einsum('bchw,bcgw->bhwg', a, b)
    column = column.masked_fill(itself, float('-inf'))
    row = torch.einsum('bchw,bchx->bhwx', a, b)
    weight = torch.cat([column, row], dim=-1).softmax(-1).to(v.dtype)
    column, row = weight.split([height, width], dim=-1)
    return torch.einsum('bhwg,bcgw->bchw', column, v) + torch.einsum(
        'bhwx,bchx->bchw', row, v
    )


def _strips(x: Tensor, rows: bool) -> Tensor:
    """View (B, C, H, W) as strips of rows (B, H, W, C) or columns (B, W, H, C)."""
    return x.permute(0, 2, 3, 1) if rows else x.permute(0, 3, 2, 1)


def _chunks(q: Tensor, v: Tensor, rows: bool) -> list[tuple[int, slice]]:
    """Divide the strips of all images so that what one part needs stays small."""
    b, channels, height, width = q.shape
    count, length = (height, width) if rows else (width, height)
    limit = _HELD.get(q.device.type, _HELD['cuda'])
    per_strip = length * max(length, channels, v.shape[1])
    step = max(limit // max(per_strip, 1), 1)
    return [(i, slice(j, j + step)) for i in range(b) for j in range(0, count, step)]


def _scores(q: Tensor, k: Tensor, scale: float, rows: bool) -> Tensor:
    """(n, length, D) twice -> (n, length, length), the place itself in rows only."""
    wide = torch.promote_types(q.dtype, torch.float32)
    scores = torch.bmm(q.to(wide) * scale, k.to(wide).transpose(1, 2))
    if not rows:
        scores.diagonal(dim1=1, dim2=2).fill_(float('-inf'))
    return scores


def _passes(q: Tensor) -> list[bool]:
    # A column of one place is that place, which the row has.
    return [True] if q.shape[2] == 1 else [True, False]


def _run(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    wide = torch.promote_types(q.dtype, torch.float32)
    b, _, height, width = q.shape
    out = torch.empty(v.shape, dtype=v.dtype, device=v.device)
    total = torch.empty((b, height, width), dtype=wide, device=q.device)
    for rows in _passes(q):
        queries, keys, values, results = (_strips(x, rows) for x in (q, k, v, out))
        totals = total if rows else total.transpose(1, 2)
        for image, part in _chunks(q, v, rows):
            scores = _scores(queries[image, part], keys[image, part], scale, rows)
            lse = scores.logsumexp(-1)
            weight = scores.sub_(lse.unsqueeze(-1)).exp_().to(v.dtype)
            here = torch.bmm(weight, values[image, part])
            if not rows:
                before, place = totals[image, part], results[image, part]
                share = torch.sigmoid(lse - before).unsqueeze(-1)
                lse = torch.logaddexp(before, lse)
                here = torch.lerp(place.to(wide), here.to(wide), share)
            results[image, part] = here.to(v.dtype)
            totals[image, part] = lse
    return out, total


def _run_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    total: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    wide = total.dtype
    grads = [torch.zeros(x.shape, dtype=wide, device=x.device) for x in (q, k, v)]
    for rows in _passes(q):
        queries, keys, values, grad_out, result = (
            _strips(x, rows) for x in (q, k, v, grad, out)
        )
        by_query, by_key, by_value = (_strips(x, rows) for x in grads)
        totals = total if rows else total.transpose(1, 2)
        for image, part in _chunks(q, v, rows):
            query, key = queries[image, part], keys[image, part]
            go = grad_out[image, part]
            weight = _scores(query, key, scale, rows)
            weight = weight.sub_(totals[image, part].unsqueeze(-1)).exp_()
            half = weight.to(v.dtype)
            by_value[image, part] += torch.bmm(half.transpose(1, 2), go)
            # The softmax spans both strips, so its mean gradient comes from the result.
            mean = (go.to(wide) * result[image, part].to(wide)).sum(-1, keepdim=True)
            by_score = torch.bmm(go, values[image, part].transpose(1, 2)).to(wide)
            by_score = by_score.sub_(mean).mul_(weight).mul_(scale)
            by_query[image, part] += torch.bmm(by_score, key.to(wide))
            by_key[image, part] += torch.bmm(by_score.transpose(1, 2), query.to(wide))
    by_query, by_key, by_value = (
        g.to(x.dtype) for g, x in zip(grads, (q, k, v), strict=True)
    )
    return by_query, by_key, by_value


_forward_op = torch.library.custom_op(
    'xmodal::criss_cross',
    _run,
    mutates_args=(),
    schema='(Tensor q, Tensor k, Tensor v, float scale) -> (Tensor, Tensor)',
)
_backward_op = torch.library.custom_op(
    'xmodal::criss_cross_backward',
    _run_backward,
    mutates_args=(),
    schema='(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor out, Tensor total, '
    'float scale) -> (Tensor, Tensor, Tensor)',
)


@_forward_op.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    b, _, height, width = q.shape
    wide = torch.promote_types(q.dtype, torch.float32)
    return v.new_empty(v.shape), q.new_empty((b, height, width), dtype=wide)


@_backward_op.register_fake
def _(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    total: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _setup(ctx: Any, inputs: tuple, output: tuple) -> None:
    q, k, v, ctx.scale = inputs
    ctx.save_for_backward(q, k, v, *output)
    ctx.mark_non_differentiable(output[1])


def _gradient(ctx: Any, grad: Tensor, _: Tensor) -> tuple:
    grads = torch.ops.xmodal.criss_cross_backward(grad, *ctx.saved_tensors, ctx.scale)
    return (*grads, None)


def _setup_backward(ctx: Any, inputs: tuple, output: tuple) -> None:
    grad, q, k, v, _, _, ctx.scale = inputs
    ctx.save_for_backward(grad, q, k, v)


def _second_gradient(ctx: Any, *grads: Tensor) -> tuple:
    with torch.enable_grad():
        inputs = [x.detach().requires_grad_() for x in ctx.saved_tensors]
        out = composite(inputs[1], inputs[2], inputs[3], ctx.scale)
        first = torch.autograd.grad(out, inputs[1:], inputs[0], create_graph=True)
    second = torch.autograd.grad(first, inputs, grads, allow_unused=True)
    # The gradient by `out` and `total` is in that by q, k and v already.
    return (*second, None, None, None)


torch.library.register_autograd('xmodal::criss_cross', _gradient, setup_context=_setup)
torch.library.register_autograd(
    'xmodal::criss_cross_backward', _second_gradient, setup_context=_setup_backward
)


def _check(q: Tensor, k: Tensor, v: Tensor) -> None:
    if q.dim() != 4:
        raise ValueError(
            f'{NAME}: q got the shape {tuple(q.shape)}, expected 4 axes (B, D, H, W).'
        )
    if k.shape != q.shape:
        raise ValueError(
            f'{NAME}: k got the shape {tuple(k.shape)}, expected that of q '
            f'{tuple(q.shape)}.'
        )
    b, _, height, width = q.shape
    if v.dim() != 4 or (v.shape[0], *v.shape[2:]) != (b, height, width):
        raise ValueError(
            f'{NAME}: v got the shape {tuple(v.shape)}, expected '
            f'({b}, C, {height}, {width}).'
        )
    if not q.is_floating_point() or not q.dtype == k.dtype == v.dtype:
        raise TypeError(
            f'{NAME}: q, k and v got {q.dtype}, {k.dtype} and {v.dtype}, expected one '
            'floating dtype.'
        )
