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

# Scores, or channels of the strips, held at a time: 1 MiB and 32 MiB of float32.
_HELD = {'cpu': 1 << 18, 'cuda': 1 << 23}


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


Part = tuple[slice, slice]  # images, and rows or columns of them


def _places(x: Tensor, rows: bool, part: Part) -> Tensor:
    """Where n strips stand in (B, C, H, W): (b, C, n, W) or (b, C, H, n), a view."""
    images, strips = part
    return x[images, :, strips] if rows else x[images, :, :, strips]


def _take(x: Tensor, rows: bool, part: Part) -> Tensor:
    """Strips (b, n, C, length) of (B, C, H, W), each a matrix that BLAS takes as is."""
    places = _places(x, rows, part)
    if rows:
        return places.transpose(1, 2)
    # First whole runs, which the second copy then reads from the cache.
    return places.contiguous().permute(0, 3, 1, 2).contiguous()


def _sum(into: Tensor, strips: Tensor, rows: bool, part: Part) -> None:
    """Write strips of rows to (B, C, H, W), then add strips of columns."""
    places = _places(into, rows, part)
    if rows:
        places.copy_(strips.transpose(1, 2))
    else:
        places.add_(strips.permute(0, 2, 3, 1))


def _of_strips(x: Tensor, rows: bool, part: Part) -> Tensor:
    """The same part (b, n, length) of a map (B, H, W) without channels, a view."""
    return x[part] if rows else x.transpose(1, 2)[part]


def _chunks(q: Tensor, v: Tensor, rows: bool) -> list[tuple[Part, list[slice]]]:
    """Divide images and strips, and channels of v: what one part needs stays small.

    Small images go together: each part is a dozen launches on a GPU. Many columns and
    few channels are better than the reverse: memory is read in longer runs.
    """
    b, channels, height, width = q.shape
    count, length = (height, width) if rows else (width, height)
    limit = _HELD.get(q.device.type, _HELD['cuda'])
    step = max(limit // max(length * max(length, channels), 1), 1)
    images = max(step // max(count, 1), 1)
    held = max(min(step, count) * min(images, b) * length, 1)
    group, all_channels = max(limit // held, 1), v.shape[1]
    groups = [slice(i, i + group) for i in range(0, all_channels, group)]
    return [
        ((slice(i, i + images), slice(j, j + step)), groups)
        for i in range(0, b, images)
        for j in range(0, count, step)
    ]


def _scores(q: Tensor, k: Tensor, scale: float, rows: bool) -> Tensor:
    """(b, n, D, length) twice -> (b, n, length, length), the place in rows only."""
    wide = torch.promote_types(q.dtype, torch.float32)
    scores = (q.to(wide) * scale).transpose(-1, -2) @ k.to(wide)
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
        for part, groups in _chunks(q, v, rows):
            query, key = (_take(x, rows, part) for x in (q, k))
            scores = _scores(query, key, scale, rows)
            lse, totals = scores.logsumexp(-1), _of_strips(total, rows, part)
            weight = scores.sub_(lse.unsqueeze(-1)).exp_()
            if not rows:  # what was there before keeps a share of the softmax
                merged = torch.logaddexp(totals, lse)
                before = (totals - merged).exp_().transpose(1, 2).unsqueeze(1)
                weight.mul_((lse - merged).exp_().unsqueeze(-1))
                lse = merged
            totals.copy_(lse)
            weight = weight.to(v.dtype).transpose(-1, -2)
            for group in groups:
                here = _take(v[:, group], rows, part) @ weight
                places = _places(out[:, group], rows, part)
                if rows:
                    places.copy_(here.transpose(1, 2))
                else:
                    here = here.permute(0, 2, 3, 1)
                    places.copy_(places.to(wide).mul(before).add_(here))
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
    grads = [torch.empty_like(x, dtype=wide) for x in (q, k, v)]
    # The softmax spans both strips, so its mean gradient comes from the result.
    mean = torch.zeros_like(total)
    for rows in _passes(q):
        for part, groups in _chunks(q, v, rows):
            query, key = (_take(x, rows, part).to(wide) for x in (q, k))
            weight = _scores(query, key, scale, rows)
            weight = weight.sub_(_of_strips(total, rows, part).unsqueeze(-1)).exp_()
            half, by_score = weight.to(v.dtype), torch.zeros_like(weight)
            for group in groups:
                value, go = (_take(x[:, group], rows, part) for x in (v, grad))
                by_score += go.transpose(-1, -2) @ value
                _sum(grads[2][:, group], go @ half, rows, part)
                if rows:
                    result = _take(out[:, group], rows, part).to(wide)
                    mean[part] += (go.to(wide) * result).sum(-2)
            by_score.sub_(_of_strips(mean, rows, part).unsqueeze(-1))
            by_score.mul_(weight).mul_(scale)
            _sum(grads[0], key @ by_score.transpose(-1, -2), rows, part)
            _sum(grads[1], query @ by_score, rows, part)
    by_query, by_key, by_value = (
        g.to(x.dtype) for g, x in zip(grads, (q, k, v), strict=True)
    )
    return by_query, by_key, by_value
