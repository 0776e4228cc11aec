"""The Swin encoder of GeminiFusion as published, under the official names.

The LayerNorms of the blocks and of the patch merging are shared, at eps 1e-5; those of
the patch embedding and of the output are each stream's own, at eps 1e-6. No fixture of
official numbers proves it.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from mmseg_xmodal.models.layers.drop_path import linear_drop_path
from mmseg_xmodal.models.layers.swin_sizes import swin_variant

from . import swin
from .gemini_parts import Both, CrossFusion, NormOfEach
from .mit import DropPath, tokens_to_map


class PatchEmbed(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = Both(nn.Conv2d(3, dim, 4, 4))
        self.norm = NormOfEach(dim)

    def forward(self, xs: list[Tensor]) -> tuple[list[Tensor], int, int]:
        xs = [F.pad(x, (0, -x.shape[3] % 4, 0, -x.shape[2] % 4)) for x in xs]
        xs = self.proj(xs)
        h, w = xs[0].shape[2:]
        return self.norm([x.flatten(2).transpose(1, 2) for x in xs]), h, w


class Mlp(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = Both(nn.Linear(dim, 4 * dim))
        self.fc2 = Both(nn.Linear(4 * dim, dim))

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        return self.fc2([F.gelu(x) for x in self.fc1(xs)])


class Block(CrossFusion):
    """The streams meet between the window attention and the first residual."""

    def __init__(
        self,
        dim: int,
        heads: int,
        side: int,
        shift: int,
        cross_heads: int,
        drop_path: float,
    ) -> None:
        super().__init__(dim, cross_heads)
        self.shift = shift
        self.norm1 = Both(nn.LayerNorm(dim))
        self.attn = Both(swin.WindowAttention(dim, side, heads))
        self.norm2 = Both(nn.LayerNorm(dim))
        self.mlp = Mlp(dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, xs: list[Tensor], h: int, w: int, mask: Tensor) -> list[Tensor]:
        attn = self.attn.module
        attended = (
            swin.attend(attn, x, (h, w), self.shift, mask) for x in self.norm1(xs)
        )
        outs = self.fuse(*attended)
        xs = [x + self.drop_path(out) for x, out in zip(xs, outs, strict=True)]
        outs = self.mlp(self.norm2(xs))
        return [x + self.drop_path(out) for x, out in zip(xs, outs, strict=True)]


class Layer(nn.Module):
    """The blocks of one stage and, but for the last, the merging of patches."""

    def __init__(
        self,
        dim: int,
        heads: int,
        side: int,
        cross_heads: int,
        rates: list[float],
        last: bool,
    ) -> None:
        super().__init__()
        self.side = side
        self.blocks = nn.ModuleList(
            Block(dim, heads, side, side // 2 if i % 2 else 0, cross_heads, rate)
            for i, rate in enumerate(rates)
        )
        self.downsample = None if last else Both(swin.PatchMerging(dim))

    def forward(self, xs: list[Tensor], h: int, w: int) -> list[Tensor]:
        mask = swin.shift_mask(h, w, self.side, self.side // 2, xs[0].device)
        for block in self.blocks:
            xs = block(xs, h, w, mask)
        return xs


class Body(nn.Module):
    def __init__(self, variant, cross_heads: int, drop_path: float) -> None:
        super().__init__()
        size = swin_variant(variant)
        self.widths = size.embed_dims
        rates = linear_drop_path(drop_path, size.depths)
        self.patch_embed = PatchEmbed(size.embed_dim)
        last = len(rates) - 1
        self.layers = nn.ModuleList(
            Layer(dim, heads, size.window, cross_heads, rates[i], i == last)
            for i, (dim, heads) in enumerate(
                zip(self.widths, size.num_heads, strict=True)
            )
        )
        for i, dim in enumerate(self.widths):
            self.add_module(f'norm{i}', NormOfEach(dim))

    def forward(self, xs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        xs, h, w = self.patch_embed(xs)
        levels: tuple[list[Tensor], list[Tensor]] = ([], [])
        for i, layer in enumerate(self.layers):
            xs = layer(xs, h, w)
            normed = getattr(self, f'norm{i}')(xs)
            for level, x in zip(levels, normed, strict=True):
                level.append(tokens_to_map(x, h, w))
            if layer.downsample is not None:
                merged = layer.downsample(xs, h, w)
                xs, (h, w) = [m[0] for m in merged], merged[0][1:]
        return levels


class SwinEncoder(nn.Module):
    """Swin for both streams in turn.

    Args:
        variant: As in our ``GeminiFusion``.
        cross_heads: Heads of the cross attention; the official code has 8.
        drop_path: Rate of the last block.
    """

    def __init__(self, variant, cross_heads: int, drop_path: float) -> None:
        super().__init__()
        self.body = Body(variant, cross_heads, drop_path)
        self.widths = self.body.widths

    def forward(self, xs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        return self.body(xs)
