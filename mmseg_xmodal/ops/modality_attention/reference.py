"""Attention over M modalities in plain PyTorch, on any device and in any dtype.

Half precision is read as it is, one modality at a time: products and sums are float32,
and each result is rounded once. A product of two float16 may be beyond float16.

Two keys have a closed form: their softmax is the sigmoid of the difference of the
scores, which is the score of the difference of the keys.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def per_modality(tensors: Sequence[Tensor]) -> list[Tensor]:
    """One tensor per modality, from such a list or from one tensor of all.

    Shape:
        - tensors: M of (B, N, heads, D), or one (B, M, N, heads, D)
    """
    if len(tensors) == 1 and tensors[0].dim() == 5:
        return list(tensors[0].unbind(1))
    return list(tensors)


def composite(
    q: Tensor,
    k: Sequence[Tensor],
    v: Sequence[Tensor],
    mask: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Attend, from operations that PyTorch differentiates any number of times.

    Shape:
        - k, v: as :func:`per_modality`
        - the rest: as :func:`.api.modality_attention`
    """
    keys, values = per_modality(k), per_modality(v)
    valid = _valid(mask)
    if valid is not None:
        # What is masked may hold anything, NaN too, and 0 * NaN is NaN.
        keys = [x.masked_fill(~m, 0) for x, m in zip(keys, valid, strict=True)]
        values = [x.masked_fill(~m, 0) for x, m in zip(values, valid, strict=True)]
    if len(keys) == 2:
        weights = _two(q, keys, valid, scale)
    else:
        weights = _many(q, keys, valid, scale)
    out = weights[0] * values[0]  # as wide as the weights
    for weight, value in zip(weights[1:], values[1:], strict=True):
        out = torch.addcmul(out, weight, value)
    return out.to(q.dtype), torch.stack(weights, dim=1).squeeze(-1)


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
    """Gradients by q, every tensor of k and every tensor of v, in this order.

    Shape:
        - grad: (B, N, heads, Dv)
        - grad_weights, weights: (B, M, N, heads)
        - the rest: as :func:`composite`
    """
    grads = [new_like(x) for x in (q, *k, *v)]
    by_key = per_modality(grads[1 : 1 + len(k)])
    by_value = per_modality(grads[1 + len(k) :])
    keys, values, valid = per_modality(k), per_modality(v), _valid(mask)
    factors = list(weights.unsqueeze(-1).unbind(1))
    wide, by_weight = grad.to(weights.dtype), []
    for i, (value, factor) in enumerate(zip(values, factors, strict=True)):
        seen = value if valid is None else value.masked_fill(~valid[i], 0)
        product = (wide * seen).sum(-1, keepdim=True)
        if grad_weights is not None:
            product = product + grad_weights[:, i, ..., None]
        by_weight.append(product)
        torch.mul(wide, factor, out=by_value[i])
    mean = sum(w * x for w, x in zip(factors, by_weight, strict=True))
    total = torch.zeros_like(q, dtype=weights.dtype)
    for i, (key, factor) in enumerate(zip(keys, factors, strict=True)):
        by_score = factor * (by_weight[i] - mean) * scale
        seen = key if valid is None else key.masked_fill(~valid[i], 0)
        total.addcmul_(by_score, seen)
        torch.mul(by_score, q, out=by_key[i])
        if valid is not None:  # q may be NaN where no modality is valid
            by_key[i].masked_fill_(~valid[i], 0)
    grads[0].copy_(total)
    return grads


def new_like(x: Tensor) -> Tensor:
    """Contiguous memory for a gradient, as the operator's fake promises it."""
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _valid(mask: Tensor | None) -> list[Tensor] | None:
    """(B, N, 1, 1) per modality, or (B, 1, 1, 1)."""
    if mask is None:
        return None
    whole = mask if mask.dim() == 3 else mask.unsqueeze(-1)
    return [m[..., None, None] for m in whole.unbind(1)]


def _score(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """Sum of products in the wider dtype of both; (B, N, heads, 1)."""
    return (q * k).sum(-1, keepdim=True) * scale


def _widen(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _two(
    q: Tensor, keys: list[Tensor], valid: list[Tensor] | None, scale: float
) -> list[Tensor]:
    first = torch.sigmoid(_score(q, _widen(keys[0]) - keys[1], scale))
    if valid is None:
        return [first, 1 - first]
    # With one valid key it has weight 1, with none both have 0.
    here, there = (m.expand_as(first) for m in valid)
    one, zero = torch.ones_like(first), torch.zeros_like(first)
    both = here & there
    return [
        torch.where(both, first, torch.where(here, one, zero)),
        torch.where(both, 1 - first, torch.where(there, one, zero)),
    ]


def _many(
    q: Tensor, keys: list[Tensor], valid: list[Tensor] | None, scale: float
) -> list[Tensor]:
    q = _widen(q)
    scores = torch.cat([_score(q, key, scale) for key in keys], dim=-1)
    if valid is None:
        return list(scores.softmax(-1).split(1, dim=-1))
    allowed = torch.cat([m.expand_as(scores[..., :1]) for m in valid], dim=-1)
    some = allowed.any(-1, keepdim=True)
    # Without any key the softmax of -inf alone would be NaN.
    scores = scores.masked_fill(~allowed & some, float('-inf'))
    return list(scores.softmax(-1).masked_fill(~allowed, 0).split(1, dim=-1))
