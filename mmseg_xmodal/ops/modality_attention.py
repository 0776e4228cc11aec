"""Attention over M modalities at each place: M keys per query, nothing gathered.

Keys and values stay one tensor per modality: no (B * N, M, C) copy is made. Two keys
have a closed form: their softmax is the sigmoid of the difference of the scores, which
is the score of the difference of the keys.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def modality_attention(
    q: Tensor,
    k: Tensor | Sequence[Tensor],
    v: Tensor | Sequence[Tensor],
    mask: Tensor | None = None,
    *,
    scale: float | None = None,
    return_weights: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attend at each place to that place in every modality.

    Args:
        q: Queries.
        k: Keys, one tensor per modality or all on one axis.
        v: Values, likewise.
        mask: Boolean, true where a modality may be attended to. A place whose every
            modality is masked gives zero.
        scale: Factor of the scores; 1 / sqrt(D) if not given.
        return_weights: Return the weights of the modalities too.

    Shape:
        - q: (B, N, heads, D), N places
        - k: M tensors (B, N, heads, D), or one (B, M, N, heads, D)
        - v: M tensors (B, N, heads, Dv), or one (B, M, N, heads, Dv)
        - mask: (B, M, N), or (B, M) for all places
        - output: (B, N, heads, Dv); weights (B, M, N, heads) in float32 or wider

    Raises:
        TypeError: For a mask that is not boolean, or differing dtypes.
        ValueError: For shapes that do not add up.
    """
    keys = list(k.unbind(1)) if isinstance(k, Tensor) else list(k)
    values = list(v.unbind(1)) if isinstance(v, Tensor) else list(v)
    _check(q, keys, values, mask)
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    valid: list[Tensor] | None = None
    if mask is not None:
        whole = mask if mask.dim() == 3 else mask.unsqueeze(-1)
        valid = [m[..., None, None] for m in whole.unbind(1)]
        # What is masked may hold anything, NaN too, and 0 * NaN is NaN.
        keys = [x.masked_fill(~m, 0) for x, m in zip(keys, valid, strict=True)]
        values = [x.masked_fill(~m, 0) for x, m in zip(values, valid, strict=True)]
    if len(keys) == 2:
        weights = _two(q, keys, valid, factor)
    else:
        weights = _many(q, keys, valid, factor)
    out = weights[0].to(q.dtype) * values[0]
    for weight, value in zip(weights[1:], values[1:], strict=True):
        out = torch.addcmul(out, weight.to(q.dtype), value)
    if return_weights:
        return out, torch.stack(weights, dim=1).squeeze(-1)
    return out


def _score(q: Tensor, k: Tensor, factor: float) -> Tensor:
    """Sum of products in float32 at least; (B, N, heads, 1)."""
    wide = torch.promote_types(q.dtype, torch.float32)
    return (q * k).sum(-1, keepdim=True, dtype=wide) * factor


def _two(
    q: Tensor, keys: list[Tensor], valid: list[Tensor] | None, factor: float
) -> list[Tensor]:
    first = torch.sigmoid(_score(q, keys[0] - keys[1], factor))
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
    q: Tensor, keys: list[Tensor], valid: list[Tensor] | None, factor: float
) -> list[Tensor]:
    scores = torch.cat([_score(q, key, factor) for key in keys], dim=-1)
    if valid is None:
        return list(scores.softmax(-1).split(1, dim=-1))
    allowed = torch.cat([m.expand_as(scores[..., :1]) for m in valid], dim=-1)
    some = allowed.any(-1, keepdim=True)
    # Without any key the softmax of -inf alone would be NaN.
    scores = scores.masked_fill(~allowed & some, float('-inf'))
    return list(scores.softmax(-1).masked_fill(~allowed, 0).split(1, dim=-1))


def _check(
    q: Tensor, keys: list[Tensor], values: list[Tensor], mask: Tensor | None
) -> None:
    name = 'modality_attention'
    if q.dim() != 4:
        raise ValueError(
            f'{name}: q got the shape {tuple(q.shape)}, expected 4 axes '
            '(B, N, heads, D).'
        )
    if not keys or len(keys) != len(values):
        raise ValueError(
            f'{name}: k and v got {len(keys)} and {len(values)} modalities, expected '
            'the same number, at least 1.'
        )
    for i, (key, value) in enumerate(zip(keys, values, strict=True)):
        if key.shape != q.shape:
            raise ValueError(
                f'{name}: k[{i}] got the shape {tuple(key.shape)}, expected that of '
                f'q {tuple(q.shape)}.'
            )
        if value.shape[:-1] != q.shape[:-1] or value.shape[-1] != values[0].shape[-1]:
            raise ValueError(
                f'{name}: v[{i}] got the shape {tuple(value.shape)}, expected '
                f'{(*q.shape[:-1], values[0].shape[-1])}.'
            )
        if not key.dtype == value.dtype == q.dtype:
            raise TypeError(
                f'{name}: k[{i}] and v[{i}] got {key.dtype} and {value.dtype}, '
                f'expected {q.dtype} as q.'
            )
    if mask is None:
        return
    if mask.dtype != torch.bool:
        raise TypeError(f'{name}: mask got {mask.dtype}, expected torch.bool.')
    whole = (q.shape[0], len(keys), q.shape[1])
    if tuple(mask.shape) not in (whole, whole[:2]):
        raise ValueError(
            f'{name}: mask got the shape {tuple(mask.shape)}, expected {whole} '
            f'or {whole[:2]}.'
        )
