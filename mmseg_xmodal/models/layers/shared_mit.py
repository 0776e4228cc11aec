"""A MiT whose weights all streams share, each with LayerNorms of its own.

Paper: the encoder of SegFormer, 2021, https://arxiv.org/abs/2105.15203, shared between
modalities as in TokenFusion, 2022, https://arxiv.org/abs/2204.08721, and GeminiFusion,
2024, https://arxiv.org/abs/2406.01210. Written from the papers, nothing is copied.

Differences, none of which changes a number: the streams stand one after the other in
the batch, so that what is shared runs once; see :mod:`.mit`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from .drop_path import DropPath, linear_drop_path
from .initialisation import segformer_init
from .mit import MiTVariant, MixFFN, ReducedAttention, mit_variant
from .patch_conv import patch_conv
from .tokens import to_map, to_tokens

Size = tuple[int, int]
# From level, block, tokens (S * B, N, C), their map's size and the projection that
# comes next (None: there is none) to the tokens after exchange and projection.
Exchange = Callable[[int, int, Tensor, Size, nn.Module | None], Tensor]


class StreamNorm(nn.ModuleList):
    """One LayerNorm per stream; the streams stand one after the other in the batch."""

    def __init__(self, streams: int, dim: int, eps: float) -> None:
        super().__init__(nn.LayerNorm(dim, eps=eps) for _ in range(streams))

    def forward(self, x: Tensor) -> Tensor:
        """(S * B, N, C) to (S * B, N, C)."""
        parts = x.chunk(len(self))
        return torch.cat([norm(p) for norm, p in zip(self, parts, strict=True)])


def shared_convolution(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Convolve; one channel counts as that channel replicated to all inputs.

    Shape:
        - x: (B, conv.in_channels or 1, H, W)
        - output: (B, conv.out_channels, h, w)
    """
    if x.shape[1] == conv.in_channels:
        return conv(x)
    weight = conv.weight.sum(1, keepdim=True)
    return F.conv2d(x, weight, conv.bias, conv.stride, conv.padding)


class SharedPatchEmbed(nn.Module):
    """Strided convolution that the streams share, then a LayerNorm for each."""

    def __init__(
        self, streams: int, in_channels: int, dim: int, stage: int, eps: float
    ) -> None:
        super().__init__()
        kernel, stride = (3, 2) if stage else (7, 4)
        self.proj = nn.Conv2d(in_channels, dim, kernel, stride, kernel // 2)
        self.norm = StreamNorm(streams, dim, eps)

    def forward(self, parts: Sequence[Tensor]) -> tuple[Tensor, Size]:
        """Maps of the streams to tokens (S * B, N, C) and the size of their map."""
        maps = [shared_convolution(self.proj, part) for part in parts]
        tokens = [n(to_tokens(m)) for n, m in zip(self.norm, maps, strict=True)]
        return torch.cat(tokens), (maps[0].shape[2], maps[0].shape[3])


class SharedAttention(ReducedAttention):
    """MiT attention up to its projection, which the exchange applies."""

    def __init__(
        self, streams: int, dim: int, heads: int, sr_ratio: int, eps: float
    ) -> None:
        super().__init__(dim, heads, sr_ratio, eps)
        if self.sr is not None:
            self.norm: Any = StreamNorm(streams, dim, eps)

    def forward(self, x: Tensor, size: Size) -> Tensor:
        """Attend to the reduced tokens; (S * B, N, C) to (S * B, N, C)."""
        q = self.q(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
        source = x
        if self.sr is not None:
            source = self.norm(patch_conv(self.sr, x, size))
        kv = self.kv(source).unflatten(2, (2, self.heads, -1))
        k, v = kv.permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v)
        return out.transpose(1, 2).flatten(2)


class SharedBlock(nn.Module):
    """Attention, exchange and MixFFN, with residuals."""

    def __init__(
        self,
        streams: int,
        dim: int,
        heads: int,
        sr_ratio: int,
        drop_path: float,
        eps: float,
    ) -> None:
        super().__init__()
        self.norm1 = StreamNorm(streams, dim, eps)
        self.attn = SharedAttention(streams, dim, heads, sr_ratio, eps)
        self.norm2 = StreamNorm(streams, dim, eps)
        self.mlp = MixFFN(dim, 4 * dim)
        self.drop_path = DropPath(drop_path)

    def forward(
        self,
        x: Tensor,
        size: Size,
        exchange: Callable[[Tensor, Size, nn.Module | None], Tensor],
    ) -> Tensor:
        """(S * B, N, C) to (S * B, N, C)."""
        out = exchange(self.attn(self.norm1(x), size), size, self.attn.proj)
        x = x + self.drop_path(out)
        return x + self.drop_path(self.mlp(self.norm2(x), size))


class SharedMiTStage(nn.Module):
    """Patch embedding, blocks and the norm of one stage."""

    def __init__(
        self, patch_embed: SharedPatchEmbed, blocks: list[SharedBlock], norm: StreamNorm
    ) -> None:
        super().__init__()
        self.patch_embed = patch_embed
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm


class SharedMixTransformer(BaseModule):
    """MiT-B0 to B5 for several streams with shared weights.

    Args:
        variant: ``'mit_b0'`` to ``'mit_b5'``, or fields of :class:`MiTVariant`.
        streams: Number of streams S.
        in_channels: Of the first convolution.
        drop_path_rate: Of the last block; grows linearly from 0. Drawn for each
            stream apart.
        norm_eps: Of every LayerNorm.
        init_cfg: As in mmengine; None = SegFormer's initialisation.

    Shape:
        - input: S maps (B, in_channels or 1, H, W)
        - output: per level S maps (B, embed_dims[i], H / 4 / 2**i, W / 4 / 2**i),
          rounded up

    Raises:
        ValueError: If the variant is unknown.
    """

    def __init__(
        self,
        variant: str | MiTVariant | Mapping[str, Any] = 'mit_b3',
        streams: int = 2,
        in_channels: int = 3,
        drop_path_rate: float = 0.1,
        norm_eps: float = 1e-6,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg)
        size = mit_variant(variant)
        self.embed_dims = tuple(size.embed_dims)
        self.depths = tuple(size.depths)
        rates = linear_drop_path(drop_path_rate, size.depths)
        self.stages: Any = nn.ModuleList()
        for i, dim in enumerate(size.embed_dims):
            heads, ratio = size.num_heads[i], size.sr_ratios[i]
            blocks = [
                SharedBlock(streams, dim, heads, ratio, rate, norm_eps)
                for rate in rates[i]
            ]
            embed = SharedPatchEmbed(streams, in_channels, dim, i, norm_eps)
            norm = StreamNorm(streams, dim, norm_eps)
            self.stages.append(SharedMiTStage(embed, blocks, norm))
            in_channels = dim

    def init_weights(self) -> None:
        """SegFormer's initialisation, or ``init_cfg`` where one is given."""
        if self.init_cfg:
            super().init_weights()
        else:
            segformer_init(self)

    def forward(
        self, parts: Sequence[Tensor], exchange: Exchange
    ) -> list[list[Tensor]]:
        """Run all stages; ``exchange`` is called in every block."""
        levels = []
        for level, stage in enumerate(self.stages):
            x, size = stage.patch_embed(parts)
            for index, block in enumerate(stage.blocks):
                x = block(x, size, partial(exchange, level, index))
            tokens = zip(stage.norm, x.chunk(len(parts)), strict=True)
            parts = [to_map(norm(t), size) for norm, t in tokens]
            levels.append(parts)
        return levels
