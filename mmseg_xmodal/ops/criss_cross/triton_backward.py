"""Criss-cross attention in Triton: the kernels of the backward pass.

One kernel goes through the keys for a block of queries, one through the queries for a
block of keys, so that every gradient is summed in one program, in a fixed order. See
:mod:`.triton_forward` for strips and strides.
"""

# A kernel is written in Triton's language, in which annotations mean something else.
# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import triton
import triton.language as tl

from .triton_forward import LOG2_E, SHARED, program, read, write


@triton.jit
def mean_kernel(
    grad,
    out,
    mean,
    length,
    strips,
    blocks,
    grad_b,
    grad_s,
    grad_p,
    out_b,
    out_s,
    out_p,
    out_c,
    mean_b,
    mean_s,
    mean_p,
    C: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Sum over channels of gradient times result: a query's mean gradient by scores."""
    block, strip, image = program(blocks, strips)
    place, c = block * BLOCK_P + tl.arange(0, BLOCK_P), tl.arange(0, BLOCK_C)
    grad += image * grad_b + strip * grad_s
    go = read(grad, place, c, length, grad_p, 1, C).to(tl.float32)
    out += image * out_b + strip * out_s
    found = go * read(out, place, c, length, out_p, out_c, C).to(tl.float32)
    at = image * mean_b + strip * mean_s + place * mean_p
    tl.store(mean + at, tl.sum(found, axis=1), mask=place < length)


@triton.jit(do_not_specialize=SHARED)
def query_kernel(
    q,
    k,
    v,
    grad,
    total,
    mean,
    by_q,
    length,
    strips,
    blocks,
    scale,
    itself,
    q_b,
    q_s,
    q_p,
    k_b,
    k_s,
    k_p,
    v_b,
    v_s,
    v_p,
    grad_b,
    grad_s,
    grad_p,
    total_b,
    total_s,
    total_p,
    by_q_b,
    by_q_s,
    by_q_p,
    D: tl.constexpr,
    C: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_C: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Add the gradient by a block of queries to ``by_q``."""
    block, strip, image = program(blocks, strips)
    d, c = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_C)
    mine = block * BLOCK_Q + tl.arange(0, BLOCK_Q)
    query = read(q + image * q_b + strip * q_s, mine, d, length, q_p, 1, D)
    grad += image * grad_b + strip * grad_s
    go = read(grad, mine, c, length, grad_p, 1, C)
    at, alive = image * total_b + strip * total_s + mine * total_p, mine < length
    logarithm = tl.load(total + at, mask=alive, other=0.0) * LOG2_E
    centre = tl.load(mean + at, mask=alive, other=0.0)
    k += image * k_b + strip * k_s
    v += image * v_b + strip * v_s
    result = tl.zeros((BLOCK_Q, BLOCK_D), dtype=tl.float32)
    for start in range(0, length, BLOCK_K):
        other = start + tl.arange(0, BLOCK_K)
        key = read(k, other, d, length, k_p, 1, D)
        value = read(v, other, c, length, v_p, 1, C)
        score = tl.dot(query, tl.trans(key), input_precision=PRECISION)
        seen = (other < length)[None, :]
        seen = seen & ((mine[:, None] != other[None, :]) | (itself != 0))
        score = tl.where(seen, score * (scale * LOG2_E), float('-inf'))
        weight = tl.exp2(score - logarithm[:, None])
        by_weight = tl.dot(go, tl.trans(value), input_precision=PRECISION)
        by_score = weight * (by_weight - centre[:, None]) * scale
        by_score = by_score.to(key.dtype)
        result = tl.dot(by_score, key, result, input_precision=PRECISION)
    by_q += image * by_q_b + strip * by_q_s
    result += read(by_q, mine, d, length, by_q_p, 1, D)
    write(by_q, result, mine, d, length, by_q_p, 1, D)


@triton.jit(do_not_specialize=SHARED)
def key_kernel(
    q,
    k,
    v,
    grad,
    total,
    mean,
    part,
    by_k,
    by_v,
    length,
    strips,
    blocks,
    scale,
    itself,
    q_b,
    q_s,
    q_p,
    k_b,
    k_s,
    k_p,
    v_b,
    v_s,
    v_p,
    grad_b,
    grad_s,
    grad_p,
    total_b,
    total_s,
    total_p,
    part_b,
    part_s,
    part_p,
    by_k_b,
    by_k_s,
    by_k_p,
    by_v_b,
    by_v_s,
    by_v_p,
    by_v_c,
    D: tl.constexpr,
    C: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_C: tl.constexpr,
    MERGE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Add the gradient by a block of keys to ``by_k``, write that by their values.

    With MERGE the one from the other direction, ``part``, comes in.
    """
    block, strip, image = program(blocks, strips)
    d, c = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_C)
    mine = block * BLOCK_K + tl.arange(0, BLOCK_K)
    key = read(k + image * k_b + strip * k_s, mine, d, length, k_p, 1, D)
    value = read(v + image * v_b + strip * v_s, mine, c, length, v_p, 1, C)
    q += image * q_b + strip * q_s
    grad += image * grad_b + strip * grad_s
    total += image * total_b + strip * total_s
    mean += image * total_b + strip * total_s
    by_key = tl.zeros((BLOCK_K, BLOCK_D), dtype=tl.float32)
    by_value = tl.zeros((BLOCK_K, BLOCK_C), dtype=tl.float32)
    for start in range(0, length, BLOCK_Q):
        other = start + tl.arange(0, BLOCK_Q)
        query = read(q, other, d, length, q_p, 1, D)
        go = read(grad, other, c, length, grad_p, 1, C)
        # A query that does not exist has the weight exp(-inf).
        at, alive = other * total_p, other < length
        logarithm = tl.load(total + at, mask=alive, other=float('inf')) * LOG2_E
        centre = tl.load(mean + at, mask=alive, other=0.0)
        score = tl.dot(key, tl.trans(query), input_precision=PRECISION)
        weight = tl.exp2(score * (scale * LOG2_E) - logarithm[None, :])
        seen = (mine[:, None] != other[None, :]) | (itself != 0)
        weight = tl.where(seen, weight, 0.0)
        by_value = tl.dot(weight.to(go.dtype), go, by_value, input_precision=PRECISION)
        by_weight = tl.dot(value, tl.trans(go), input_precision=PRECISION)
        by_score = weight * (by_weight - centre[None, :]) * scale
        by_score = by_score.to(query.dtype)
        by_key = tl.dot(by_score, query, by_key, input_precision=PRECISION)
    by_k += image * by_k_b + strip * by_k_s
    by_key += read(by_k, mine, d, length, by_k_p, 1, D)
    write(by_k, by_key, mine, d, length, by_k_p, 1, D)
    if MERGE:
        part += image * part_b + strip * part_s
        by_value += read(part, mine, c, length, part_p, 1, C)
    by_v += image * by_v_b + strip * by_v_s
    write(by_v, by_value, mine, c, length, by_v_p, by_v_c, C)
