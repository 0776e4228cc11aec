"""Criss-cross attention in plain PyTorch, on any device and in any dtype.

Rows and columns are two attentions of their own, the place itself counted in the row
only; their results are merged by the logarithms of their sums of exponentials, which is
the softmax over both. Scores exist for a few strips at a time, in the backward pass
too, where they are computed again: memory is that of the result instead of
H * W * (H + W) scores. ``scaled_dot_product_attention`` cannot stand in for a pass: it
returns no logarithm to merge by, and a column has to mask its own diagonal.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Scores, or channels of the strips, held at a time: 4 MiB and 32 MiB of float32.
_HELD = {'cpu': 1 << 20, 'cuda': 1 << 23}


def composite(q: Tensor, k: Tensor, v: Tensor, scale: float = 1.0) -> Tensor:
    """Compute the same with all scores at once, for export and second gradients.

    Shape:
        - as :func:`.api.criss_cross_attention`
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


def _chunks(q: Tensor, v: Tensor, rows: bool) -> list[tuple[slice, slice]]:
    """Divide images and strips so that what one part needs stays small.

    Small images go together: each part is a dozen launches on a GPU.
    """
    b, channels, height, width = q.shape
    count, length = (height, width) if rows else (width, height)
    limit = _HELD.get(q.device.type, _HELD['cuda'])
    per_strip = length * max(length, channels, v.shape[1])
    step = max(limit // max(per_strip, 1), 1)
    images = max(step // max(count, 1), 1)
    return [
        (slice(i, i + images), slice(j, j + step))
        for i in range(0, b, images)
        for j in range(0, count, step)
    ]


def _scores(q: Tensor, k: Tensor, scale: float, rows: bool) -> Tensor:
    """(b, n, length, D) twice -> (b, n, length, length), the place in rows only."""
    wide = torch.promote_types(q.dtype, torch.float32)
    scores = (q.to(wide) * scale) @ k.to(wide).transpose(-1, -2)
    if not rows:
        scores.diagonal(dim1=-2, dim2=-1).fill_(float('-inf'))
    return scores


def _passes(q: Tensor) -> list[bool]:
    # A column of one place is that place, which the row has.
    return [True] if q.shape[2] == 1 else [True, False]


def forward(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Attend; the result, and the logarithm of each place's sum of exponentials.

    Shape:
        - q, k, v, result: as :func:`.api.criss_cross_attention`
        - logarithm: (B, H, W), float32 or wider
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    b, _, height, width = q.shape
    out = torch.empty_like(v)
    total = torch.empty((b, height, width), dtype=wide, device=q.device)
    for rows in _passes(q):
        queries, keys, values, results = (_strips(x, rows) for x in (q, k, v, out))
        totals = total if rows else total.transpose(1, 2)
        for part in _chunks(q, v, rows):
            scores = _scores(queries[part], keys[part], scale, rows)
            lse = scores.logsumexp(-1)
            weight = scores.sub_(lse.unsqueeze(-1)).exp_().to(v.dtype)
            here = weight @ values[part]
            if not rows:
                before, place = totals[part], results[part]
                share = torch.sigmoid(lse - before).unsqueeze(-1)
                lse = torch.logaddexp(before, lse)
                here = torch.lerp(place.to(wide), here.to(wide), share)
            results[part] = here.to(v.dtype)
            totals[part] = lse
    return out, total


def backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    total: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients by q, k and v, from what :func:`forward` returned.

    Shape:
        - grad: as ``out``
    """
    wide = total.dtype
    grads = [torch.zeros_like(x, dtype=wide) for x in (q, k, v)]
    for rows in _passes(q):
        queries, keys, values, grad_out, result = (
            _strips(x, rows) for x in (q, k, v, grad, out)
        )
        by_query, by_key, by_value = (_strips(x, rows) for x in grads)
        totals = total if rows else total.transpose(1, 2)
        for part in _chunks(q, v, rows):
            query, key, go = queries[part], keys[part], grad_out[part]
            weight = _scores(query, key, scale, rows)
            weight = weight.sub_(totals[part].unsqueeze(-1)).exp_()
            half = weight.to(v.dtype)
            by_value[part] += half.transpose(-1, -2) @ go
            # The softmax spans both strips, so its mean gradient comes from the result.
            mean = (go.to(wide) * result[part].to(wide)).sum(-1, keepdim=True)
            by_score = (go @ values[part].transpose(-1, -2)).to(wide)
            by_score = by_score.sub_(mean).mul_(weight).mul_(scale)
            by_query[part] += by_score @ key.to(wide)
            by_key[part] += by_score.transpose(-1, -2) @ query.to(wide)
    by_query, by_key, by_value = (
        g.to(x.dtype) for g, x in zip(grads, (q, k, v), strict=True)
    )
    return by_query, by_key, by_value
