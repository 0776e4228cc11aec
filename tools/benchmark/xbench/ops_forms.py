"""The forms that the operations are measured against."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LevelShapes = list[tuple[int, int]]


def composition(
    value: Tensor, shapes: LevelShapes, locations: Tensor, weights: Tensor
) -> Tensor:
    """Deformable attention as ``grid_sample`` of each level, stacked and weighted.

    What a package without a kernel does, and what mmcv does on a CPU
    (``multi_scale_deformable_attn_pytorch``); written anew.

    Shape:
        - as ``mmseg_xmodal.ops.multi_scale_deformable_attention``
    """
    b, _, heads, channels = value.shape
    queries = locations.shape[1]
    grid = (2 * locations - 1).to(value.dtype)
    sampled = []
    start = 0
    for level, (height, width) in enumerate(shapes):
        part = value[:, start : start + height * width]
        start += height * width
        image = part.permute(0, 2, 3, 1).reshape(b * heads, channels, height, width)
        points = grid[:, :, :, level].transpose(1, 2).flatten(0, 1)
        sampled.append(F.grid_sample(image, points, align_corners=False))
    factor = weights.to(value.dtype).transpose(1, 2).flatten(3)
    factor = factor.reshape(b * heads, 1, queries, -1)
    out = (torch.stack(sampled, dim=-2).flatten(-2) * factor).sum(-1)
    return out.view(b, heads * channels, queries).transpose(1, 2).contiguous()


def criss_cross_einsum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Criss-cross attention with all scores at once, as CCNet in PyTorch computes it.

    Shape:
        - as ``mmseg_xmodal.ops.criss_cross_attention``
    """
    height, width = q.shape[2:]
    itself = torch.eye(height, dtype=torch.bool, device=q.device)[:, None]
    column = torch.einsum('bchw,bcgw->bhwg', q, k).masked_fill(itself, float('-inf'))
    row = torch.einsum('bchw,bchx->bhwx', q, k)
    weight = torch.cat([column, row], dim=-1).softmax(-1)
    column, row = weight.split([height, width], dim=-1)
    return torch.einsum('bhwg,bcgw->bchw', column, v) + torch.einsum(
        'bhwx,bchx->bchw', row, v
    )


def modality_stacked(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention over modalities through SDPA, every place a batch of its own.

    Shape:
        - q: (B, N, heads, D)
        - k: (B, M, N, heads, D)
        - v: (B, M, N, heads, D)
        - output: (B, N, heads, D)
    """
    b, m, n, heads, channels = k.shape
    key, value = (
        x.permute(0, 2, 3, 1, 4).reshape(-1, heads, m, channels) for x in (k, v)
    )
    query = q.reshape(b * n, heads, 1, channels)
    return F.scaled_dot_product_attention(query, key, value).view(q.shape)


def windows_all_pairs(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Windowed attention as global attention under a mask of equal windows.

    Shape:
        - q, k, v: (B, H, W, heads, D)
        - output: (B, H, W, heads, D)
    """
    b, h, w, heads, channels = q.shape
    row, column = (torch.arange(n, device=q.device) // window for n in (h, w))
    name = (row[:, None] * w + column).flatten()
    query, key, value = (x.flatten(1, 2).transpose(1, 2) for x in (q, k, v))
    out = F.scaled_dot_product_attention(
        query, key, value, attn_mask=name[:, None] == name
    )
    return out.transpose(1, 2).reshape(b, h, w, heads, channels)
