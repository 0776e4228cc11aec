"""The Triton kernels of attention over modalities, one each way; launched elsewhere.

A program takes a block of rows (image, place, head, in that order) times all channels
of a head and goes through the modalities, twice: first for the softmax, then for the
results. What it reads the second time lies in the first-level cache, so that each input
comes from memory once and each result goes there once. Scores, softmax and sums are
float32 in registers. What a mask excludes is not read.
"""

# A kernel is written in Triton's language, in which annotations mean something else.
# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _rows(rows, places, HEADS: tl.constexpr, BLOCK_R: tl.constexpr, WIDE: tl.constexpr):
    """Number of each row, and its image, place and head."""
    row = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    if WIDE:
        row = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    return row, row // (places * HEADS), (row // HEADS) % places, row % HEADS


@triton.jit
def _pick(m: tl.constexpr, x0, x1, x2, x3, x4, x5, x6, x7):
    """One of up to eight pointers; which one is known when the kernel is compiled."""
    x = x0
    if m == 1:
        x = x1
    if m == 2:
        x = x2
    if m == 3:
        x = x3
    if m == 4:
        x = x4
    if m == 5:
        x = x5
    if m == 6:
        x = x6
    if m == 7:
        x = x7
    return x


@triton.jit
def _load(base, at, seen, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Channels of each row that is seen, 0 elsewhere, in float32."""
    channel = tl.arange(0, BLOCK)[None, :]
    mask = seen[:, None] & (channel < WIDTH)
    return tl.load(base + at[:, None] + channel, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _store(base, at, value, alive, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    channel = tl.arange(0, BLOCK)[None, :]
    mask = alive[:, None] & (channel < WIDTH)
    tl.store(base + at[:, None] + channel, value.to(base.dtype.element_ty), mask=mask)


@triton.jit
def _score(query, key, seen, scale):
    return tl.where(seen, tl.sum(query * key, axis=1) * scale, float('-inf'))


@triton.jit
def _seen(mask, at, alive, step, MASKED: tl.constexpr):
    """Rows whose place may attend to the modality."""
    if MASKED:
        return alive & (tl.load(mask + at + step, mask=alive, other=0) != 0)
    return alive


# Sizes and the mask need no compiled form of their own.
SHARED = ['rows', 'places', 'mask_b', 'mask_m', 'mask_n']


@triton.jit(do_not_specialize=SHARED)
def forward_kernel(
    q,
    k0,
    k1,
    k2,
    k3,
    k4,
    k5,
    k6,
    k7,
    v0,
    v1,
    v2,
    v3,
    v4,
    v5,
    v6,
    v7,
    mask,
    out,
    weights,
    rows,
    places,
    scale,
    q_b,
    q_n,
    q_h,
    k_b,
    k_n,
    k_h,
    v_b,
    v_n,
    v_h,
    mask_b,
    mask_m,
    mask_n,
    HEADS: tl.constexpr,
    M: tl.constexpr,
    D: tl.constexpr,
    DV: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_V: tl.constexpr,
    MASKED: tl.constexpr,
    WIDE: tl.constexpr,
):
    row, b, n, head = _rows(rows, places, HEADS, BLOCK_R, WIDE)
    alive = row < rows
    at_k, at_v = b * k_b + n * k_n + head * k_h, b * v_b + n * v_n + head * v_h
    at_mask, at_weight = b * mask_b + n * mask_n, (b * M * places + n) * HEADS + head
    query = _load(q, b * q_b + n * q_n + head * q_h, alive, D, BLOCK_D)
    top = tl.full((BLOCK_R,), float('-inf'), dtype=tl.float32)
    total = tl.zeros((BLOCK_R,), dtype=tl.float32)
    for m in tl.static_range(M):
        seen = _seen(mask, at_mask, alive, m * mask_m, MASKED)
        base = _pick(m, k0, k1, k2, k3, k4, k5, k6, k7)
        score = _score(query, _load(base, at_k, seen, D, BLOCK_D), seen, scale)
        higher = tl.maximum(top, score)
        # Nothing seen yet: -inf - -inf would be NaN.
        shift = tl.where(higher == float('-inf'), 0.0, higher)
        total = total * tl.exp(top - shift) + tl.exp(score - shift)
        top = higher
    top = tl.where(top == float('-inf'), 0.0, top)
    total = tl.where(total == 0, 1.0, total)
    result = tl.zeros((BLOCK_R, BLOCK_V), dtype=tl.float32)
    for m in tl.static_range(M):
        seen = _seen(mask, at_mask, alive, m * mask_m, MASKED)
        base = _pick(m, k0, k1, k2, k3, k4, k5, k6, k7)
        score = _score(query, _load(base, at_k, seen, D, BLOCK_D), seen, scale)
        weight = tl.exp(score - top) / total
        tl.store(weights + at_weight + m * places * HEADS, weight, mask=alive)
        base = _pick(m, v0, v1, v2, v3, v4, v5, v6, v7)
        result += weight[:, None] * _load(base, at_v, seen, DV, BLOCK_V)
    _store(out, row * DV, result, alive, DV, BLOCK_V)


@triton.jit
def _by_weight(value, go, grad_weights, at, seen, WEIGHTED: tl.constexpr):
    """Gradient by the weight of a modality."""
    found = tl.sum(value * go, axis=1)
    if WEIGHTED:
        found += tl.load(grad_weights + at, mask=seen, other=0.0)
    return found


@triton.jit(do_not_specialize=SHARED)
def backward_kernel(
    q,
    k0,
    k1,
    k2,
    k3,
    k4,
    k5,
    k6,
    k7,
    v0,
    v1,
    v2,
    v3,
    v4,
    v5,
    v6,
    v7,
    mask,
    grad,
    grad_weights,
    weights,
    by_q,
    by_k0,
    by_k1,
    by_k2,
    by_k3,
    by_k4,
    by_k5,
    by_k6,
    by_k7,
    by_v0,
    by_v1,
    by_v2,
    by_v3,
    by_v4,
    by_v5,
    by_v6,
    by_v7,
    rows,
    places,
    scale,
    q_b,
    q_n,
    q_h,
    k_b,
    k_n,
    k_h,
    v_b,
    v_n,
    v_h,
    mask_b,
    mask_m,
    mask_n,
    grad_b,
    grad_n,
    grad_h,
    by_k_b,
    by_v_b,
    HEADS: tl.constexpr,
    M: tl.constexpr,
    D: tl.constexpr,
    DV: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_V: tl.constexpr,
    MASKED: tl.constexpr,
    WEIGHTED: tl.constexpr,
    WIDE: tl.constexpr,
):
    row, b, n, head = _rows(rows, places, HEADS, BLOCK_R, WIDE)
    alive = row < rows
    at_k, at_v = b * k_b + n * k_n + head * k_h, b * v_b + n * v_n + head * v_h
    at_mask, at_weight = b * mask_b + n * mask_n, (b * M * places + n) * HEADS + head
    at_by = n * HEADS + head
    step = places * HEADS
    go = _load(grad, b * grad_b + n * grad_n + head * grad_h, alive, DV, BLOCK_V)
    mean = tl.zeros((BLOCK_R,), dtype=tl.float32)
    for m in tl.static_range(M):
        seen = _seen(mask, at_mask, alive, m * mask_m, MASKED)
        base = _pick(m, v0, v1, v2, v3, v4, v5, v6, v7)
        value = _load(base, at_v, seen, DV, BLOCK_V)
        at = at_weight + m * step
        weight = tl.load(weights + at, mask=seen, other=0.0)
        mean += weight * _by_weight(value, go, grad_weights, at, seen, WEIGHTED)
    query = _load(q, b * q_b + n * q_n + head * q_h, alive, D, BLOCK_D)
    total = tl.zeros((BLOCK_R, BLOCK_D), dtype=tl.float32)
    for m in tl.static_range(M):
        seen = _seen(mask, at_mask, alive, m * mask_m, MASKED)
        base = _pick(m, v0, v1, v2, v3, v4, v5, v6, v7)
        value = _load(base, at_v, seen, DV, BLOCK_V)
        at = at_weight + m * step
        weight = tl.load(weights + at, mask=seen, other=0.0)
        found = _by_weight(value, go, grad_weights, at, seen, WEIGHTED)
        by_score = tl.where(seen, weight * (found - mean) * scale, 0.0)
        base = _pick(m, k0, k1, k2, k3, k4, k5, k6, k7)
        total += by_score[:, None] * _load(base, at_k, seen, D, BLOCK_D)
        # A query that sees nothing may be NaN, and its product too.
        by_key = tl.where(seen[:, None], by_score[:, None] * query, 0.0)
        base = _pick(m, by_k0, by_k1, by_k2, by_k3, by_k4, by_k5, by_k6, by_k7)
        _store(base, b * by_k_b + at_by * D, by_key, alive, D, BLOCK_D)
        by_value = tl.where(seen[:, None], weight[:, None] * go, 0.0)
        base = _pick(m, by_v0, by_v1, by_v2, by_v3, by_v4, by_v5, by_v6, by_v7)
        _store(base, b * by_v_b + at_by * DV, by_value, alive, DV, BLOCK_V)
    _store(by_q, row * D, total, alive, D, BLOCK_D)
