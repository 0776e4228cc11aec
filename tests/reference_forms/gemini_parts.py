"""What the published GeminiFusion has in common with MiT and with Swin."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-6


class Both(nn.Module):
    """One module for all streams."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, xs: list[Tensor], *args: int) -> list:
        return [self.module(x, *args) for x in xs]


class NormOfEach(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.ln_0 = nn.LayerNorm(dim, eps=EPS)
        self.ln_1 = nn.LayerNorm(dim, eps=EPS)

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        return [self.ln_0(xs[0]), self.ln_1(xs[1])]


class RelationJudger(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(2 * dim, dim)
        self.fc2 = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x))).softmax(-1)


class CrossFusion(nn.Module):
    """The pixel-wise fusion of two streams of tokens, and its parameters."""

    def __init__(self, dim: int, cross_heads: int) -> None:
        super().__init__()
        self.cross_attn_0_to_1 = nn.MultiheadAttention(dim, cross_heads)
        self.cross_attn_1_to_0 = nn.MultiheadAttention(dim, cross_heads)
        self.relation_judger = nn.Sequential(RelationJudger(dim))
        self.k_noise = nn.Embedding(2, dim)
        self.v_noise = nn.Embedding(2, dim)

    def cross(self, i: int, own: Tensor, partner: Tensor) -> Tensor:
        """(N, C) of one sample; the N tokens are the batch of the attention."""
        attention = self.cross_attn_1_to_0 if i else self.cross_attn_0_to_1
        relation = self.relation_judger(torch.cat([own, partner], -1))
        noise_k = self.k_noise.weight[i] + own
        noise_v = self.v_noise.weight[i] + own
        key = torch.cat([noise_k[None], (own * relation)[None]], 0)
        value = torch.cat([noise_v[None], partner[None]], 0)
        return own + attention(own[None], key, value)[0][0]

    def fuse(self, first: Tensor, second: Tensor) -> list[Tensor]:
        """(B, N, C) of both streams, sample by sample."""
        outs: tuple[list[Tensor], list[Tensor]] = ([], [])
        for a, b in zip(first, second, strict=True):
            outs[0].append(self.cross(0, a, b))
            outs[1].append(self.cross(1, b, a))
        return [torch.stack(out) for out in outs]
