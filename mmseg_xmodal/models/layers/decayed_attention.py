"""Softmax attention whose scores sink with distance, in each head at its own rate.

    sum_j softmax_j(q_i k_j / sqrt(d) + decay_n * (w_0 * place_ij + w_1 * other_ij)) v_j

The plain form makes the mask, the scores and the weights, heads x L x L numbers for
each line of L tokens, and reads and writes each several times in main memory. On a CPU
one head of a few lines at a time goes all the way and stays in the cache; the decay is
a factor of the matrix product that adds the scores. The backward pass computes the
weights of long lines again instead of keeping them: neither holds more than one part
then. The numbers are the same up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .capture import is_captured

# Scores of one part: 1 MB of float32 is the best between 0.25 and 50 MB on an x86
# server core (half the time of the whole).
_ELEMENTS = 1 << 18
# Weights are kept for the backward pass where a line has at most so many tokens per
# channel of a head, and computed again for longer lines: kept ones are no larger than
# so many feature maps.
_KEEP = 12


def _parts(other: Tensor) -> Iterator[tuple[slice, slice]]:
    """Divide into lines, and lines that are too long into queries."""
    lines, queries, keys = other.shape
    rows = max(_ELEMENTS // keys, 1)
    step = max(rows // queries, 1)
    for line in range(0, lines, step):
        for query in range(0, queries, rows):
            yield slice(line, line + step), slice(query, query + rows)


def _scores(q: Tensor, k: Tensor, distance: Tensor, rate: float) -> Tensor:
    """Scores (m, l, L) of one head from q (m, l, d), k (m, L, d)."""
    scale = q.shape[-1] ** -0.5
    return torch.baddbmm(distance, q, k.transpose(1, 2), beta=rate, alpha=scale)


class _DecayedAttention(torch.autograd.Function):
    """See :func:`decayed_attention`."""

    @staticmethod
    def forward(ctx: Any, decay: Sequence[float], keep: bool, *args: Tensor) -> Tensor:
        q, k, v, place, other, slopes = args
        kept = q.new_empty(len(decay), *other.shape) if keep else None
        ctx.save_for_backward(*args, kept)
        ctx.decay = decay
        near = slopes[0] * place
        out = v.new_empty(v.shape)
        for lines, queries in _parts(other):
            distance = torch.addcmul(near[queries], other[lines, queries], slopes[1])
            for n, rate in enumerate(decay):
                scores = _scores(q[lines, queries, n], k[lines, :, n], distance, rate)
                weights = scores.softmax(-1)
                if kept is not None:
                    kept[n, lines, queries] = weights
                out[lines, queries, n] = weights @ v[lines, :, n]
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        needs_other = ctx.needs_input_grad[6]
        with torch.autocast(grad.device.type, enabled=False):
            grads = _gradients(grad, ctx.decay, ctx.saved_tensors, needs_other)
        return None, None, *grads


def _gradients(
    grad: Tensor, decay: Sequence[float], saved: Sequence[Any], needs_other: bool
) -> tuple[Tensor | None, ...]:
    """Of q, k, v, place (none), other (if needed) and slopes."""
    q, k, v, place, other, slopes, kept = saved
    near, scale = slopes[0] * place, q.shape[3] ** -0.5
    grad_q, grad_k, grad_v = (x.new_empty(x.shape) for x in (q, k, v))
    grad_other = torch.empty_like(other) if needs_other else None
    grad_slopes = torch.zeros_like(slopes)
    for lines, queries in _parts(other):
        # Keys and values get a sum over the parts of their line.
        put = Tensor.add_ if queries.start else Tensor.copy_
        far = other[lines, queries]
        distance = torch.addcmul(near[queries], far, slopes[1])
        apart = torch.zeros_like(distance)
        for n, rate in enumerate(decay):
            q_, k_, v_ = q[lines, queries, n], k[lines, :, n], v[lines, :, n]
            above = grad[lines, queries, n]
            if kept is None:
                weights = _scores(q_, k_, distance, rate).softmax(-1)
            else:
                weights = kept[n, lines, queries]
            put(grad_v[lines, :, n], weights.transpose(1, 2) @ above)
            score = torch._softmax_backward_data(
                above @ v_.transpose(1, 2), weights, -1, weights.dtype
            )
            grad_q[lines, queries, n] = (score @ k_).mul_(scale)
            put(grad_k[lines, :, n], (score.transpose(1, 2) @ q_).mul_(scale))
            apart.add_(score, alpha=rate)
        grad_slopes[0] += (apart.sum(0) * place[queries]).sum()
        grad_slopes[1] += (apart * far).sum()
        if grad_other is not None:
            grad_other[lines, queries] = apart.mul_(slopes[1])
    return grad_q, grad_k, grad_v, None, grad_other, grad_slopes


def _plain(
    decay: Sequence[float],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    place: Tensor,
    other: Tensor,
    slopes: Tensor,
) -> Tensor:
    """All lines and heads at once."""
    distance = slopes[0] * place + slopes[1] * other
    mask = distance.unsqueeze(1) * distance.new_tensor(decay)[:, None, None]
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    scores = torch.baddbmm(
        mask.flatten(0, 1),
        q.flatten(0, 1),
        k.flatten(0, 1).transpose(1, 2),
        alpha=q.shape[-1] ** -0.5,
    )
    return (scores.softmax(-1).view_as(mask) @ v).transpose(1, 2)


def decayed_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    place: Tensor,
    other: Tensor,
    slopes: Tensor,
    decay: Sequence[float],
) -> Tensor:
    """Attend within each line; see the head of this file.

    Runs in the precision of ``other``, under autocast as well: the masks reach further
    than the mantissa of bfloat16.

    Args:
        q: Queries. k: keys. v: values.
        place: Distances that all lines share; without gradient.
        other: Further distances, of each line.
        slopes: w_0 and w_1.
        decay: Factor of each head, negative.

    Shape:
        - q, k, v: (lines, L, heads, d)
        - place: (L, L)
        - other: (lines, L, L)
        - slopes: (2,)
        - output: (lines, L, heads, d)
    """
    dtype = other.dtype
    with torch.autocast(q.device.type, enabled=False):
        q, k, values, slopes = (x.to(dtype) for x in (q, k, v, slopes))
        args = (q, k, values, place, other, slopes)
        if q.device.type != 'cpu' or is_captured():
            return _plain(decay, *args).to(v.dtype)
        keep = torch.is_grad_enabled() and q.shape[1] <= _KEEP * q.shape[3]
        return _DecayedAttention.apply(decay, keep, *args).to(v.dtype)
