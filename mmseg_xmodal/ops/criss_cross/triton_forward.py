"""Criss-cross attention in Triton: the kernel of the forward pass.

A strip is a row or a column; places of a strip attend to places of the same strip. A
program takes a block of places of one strip and goes through the others in blocks, as
in FlashAttention-2, 2023, https://arxiv.org/abs/2307.08691: scores exist in registers
only, in float32, and are computed again in the backward pass. Tensors come with strides
(image, strip, place, channel), so that a kernel does not know rows from columns; the
channels of inputs are neighbours.
"""

# A kernel is written in Triton's language, in which annotations mean something else.
# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def program(blocks, strips):
    """Block, strip and image of this program, neighbouring strips close in time."""
    number = tl.program_id(0)
    strip = (number // blocks) % strips
    return number % blocks, strip, (number // (blocks * strips)).to(tl.int64)


@triton.jit
def grid(place, channel, length, step_p, step_c, width):
    """Offsets within a strip, and which of them exist."""
    mask = (place < length)[:, None] & (channel < width)[None, :]
    return place[:, None] * step_p + channel[None, :] * step_c, mask


@triton.jit
def read(base, place, channel, length, step_p, step_c, width):
    at, mask = grid(place, channel, length, step_p, step_c, width)
    return tl.load(base + at, mask=mask, other=0.0)


@triton.jit
def write(base, value, place, channel, length, step_p, step_c, width):
    at, mask = grid(place, channel, length, step_p, step_c, width)
    tl.store(base + at, value.to(base.dtype.element_ty), mask=mask)


# What differs between rows and columns, and between sizes, needs no compiled form of
# its own. The length has one where it is a multiple of 16: results are stored in rows.
SHARED = ['strips', 'blocks', 'itself', 'total_b', 'total_s', 'total_p']


@triton.jit(do_not_specialize=SHARED)
def forward_kernel(
    q,
    k,
    v,
    part,
    before,
    out,
    total,
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
    part_b,
    part_s,
    part_p,
    out_b,
    out_s,
    out_p,
    out_c,
    total_b,
    total_s,
    total_p,
    D: tl.constexpr,
    C: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_C: tl.constexpr,
    MERGE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One direction; with MERGE the result of the other one, ``part``, comes in.

    ``itself`` is 1 where a place attends to itself, else 0.
    """
    block, strip, image = program(blocks, strips)
    d, c = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_C)
    mine = block * BLOCK_Q + tl.arange(0, BLOCK_Q)
    query = read(q + image * q_b + strip * q_s, mine, d, length, q_p, 1, D)
    k += image * k_b + strip * k_s
    v += image * v_b + strip * v_s
    top = tl.full((BLOCK_Q,), float('-inf'), dtype=tl.float32)
    weights = tl.zeros((BLOCK_Q,), dtype=tl.float32)
    result = tl.zeros((BLOCK_Q, BLOCK_C), dtype=tl.float32)
    for start in range(0, length, BLOCK_K):
        other = start + tl.arange(0, BLOCK_K)
        key = read(k, other, d, length, k_p, 1, D)
        score = tl.dot(query, tl.trans(key), input_precision=PRECISION)
        seen = (other < length)[None, :]
        seen = seen & ((mine[:, None] != other[None, :]) | (itself != 0))
        score = tl.where(seen, score * (scale * LOG2_E), float('-inf'))
        # The first block holds a key for every query: a strip has two places or more
        # where the query itself is left out. So the maximum is finite from there on.
        higher = tl.maximum(top, tl.max(score, axis=1))
        weight = tl.exp2(score - higher[:, None])
        shrunk = tl.exp2(top - higher)
        weights = weights * shrunk + tl.sum(weight, axis=1)
        value = read(v, other, c, length, v_p, 1, C)
        result = tl.dot(
            weight.to(value.dtype),
            value,
            result * shrunk[:, None],
            input_precision=PRECISION,
        )
        top = higher
    result = result / weights[:, None]
    logarithm = (top + tl.log2(weights)) * LN_2
    at, alive = image * total_b + strip * total_s + mine * total_p, mine < length
    if MERGE:
        others = tl.load(before + at, mask=alive, other=0.0)
        part += image * part_b + strip * part_s
        result_there = read(part, mine, c, length, part_p, 1, C)
        high = tl.maximum(logarithm, others)
        both = high + tl.log(tl.exp(logarithm - high) + tl.exp(others - high))
        result = result * tl.exp(logarithm - both)[:, None]
        result += result_there * tl.exp(others - both)[:, None]
        logarithm = both
    out += image * out_b + strip * out_s
    write(out, result, mine, c, length, out_p, out_c, C)
    tl.store(total + at, logarithm, mask=alive)
