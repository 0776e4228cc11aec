"""Swin Transformer as published, written plainly: pad, roll, cut, explicit softmax.

Parameters carry the official names.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .mit import DropPath


def cut(x: Tensor, side: int) -> Tensor:
    """(B, H, W, C) to (windows, side, side, C)."""
    b, h, w, c = x.shape
    x = x.view(b, h // side, side, w // side, side, c)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, side, side, c)


def join(windows: Tensor, h: int, w: int) -> Tensor:
    """(windows, side, side, C) to (B, H, W, C)."""
    side = windows.shape[1]
    x = windows.view(-1, h // side, w // side, side, side, windows.shape[3])
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, h, w, windows.shape[3])


def shift_mask(h: int, w: int, side: int, shift: int, device) -> Tensor:
    """What shifted windows must not mix, for a map that is padded to windows."""
    h, w = -(-h // side) * side, -(-w // side) * side
    parts = torch.zeros((1, h, w, 1), device=device)
    slices = (slice(0, -side), slice(-side, -shift), slice(-shift, None))
    for i, rows in enumerate(slices):
        for j, columns in enumerate(slices):
            parts[:, rows, columns] = 3 * i + j
    parts = cut(parts, side).view(-1, side * side)
    other = parts.unsqueeze(1) - parts.unsqueeze(2)
    return other.masked_fill(other != 0, -100.0).masked_fill(other == 0, 0.0)


class WindowAttention(nn.Module):
    def __init__(self, dim: int, side: int, heads: int) -> None:
        super().__init__()
        self.heads, self.side = heads, side
        self.relative_position_bias_table = nn.Parameter(
            torch.zeros((2 * side - 1) ** 2, heads)
        )
        places = torch.stack(
            torch.meshgrid(torch.arange(side), torch.arange(side), indexing='ij')
        ).flatten(1)
        distance = places[:, :, None] - places[:, None] + side - 1
        index = distance[0] * (2 * side - 1) + distance[1]
        self.register_buffer('relative_position_index', index, persistent=False)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attn = (q * (c // self.heads) ** -0.5) @ k.transpose(-2, -1)
        bias = self.relative_position_bias_table[self.relative_position_index.view(-1)]
        bias = bias.view(n, n, -1).permute(2, 0, 1).contiguous()
        attn = attn + bias.unsqueeze(0)
        if mask is not None:
            attn = attn.view(-1, len(mask), self.heads, n, n)
            attn = (attn + mask.unsqueeze(1).unsqueeze(0)).view(-1, self.heads, n, n)
        x = (attn.softmax(-1) @ v).transpose(1, 2).reshape(b, n, c)
        return self.proj(x)


def attend(
    attn: WindowAttention, x: Tensor, size: tuple[int, int], shift: int, mask: Tensor
) -> Tensor:
    """Attention of normed tokens in shifted windows, in the order of the map."""
    b, n, c = x.shape
    h, w = size
    side = attn.side
    x = F.pad(x.view(b, h, w, c), (0, 0, 0, -w % side, 0, -h % side))
    height, width = x.shape[1:3]
    if shift:
        x = torch.roll(x, (-shift, -shift), (1, 2))
    windows = attn(cut(x, side).view(-1, side * side, c), mask if shift else None)
    x = join(windows.view(-1, side, side, c), height, width)
    if shift:
        x = torch.roll(x, (shift, shift), (1, 2))
    if (height, width) != (h, w):
        x = x[:, :h, :w].contiguous()
    return x.view(b, n, c)


class Mlp(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(
        self, dim: int, heads: int, side: int, shift: int, drop_path: float
    ) -> None:
        super().__init__()
        self.shift = shift
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, side, heads)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim)

    def attend(self, x: Tensor, h: int, w: int, mask: Tensor) -> Tensor:
        """Window attention of the normed tokens, in the order of the map."""
        return attend(self.attn, self.norm1(x), (h, w), self.shift, mask)

    def forward(self, x: Tensor, h: int, w: int, mask: Tensor) -> Tensor:
        x = x + self.drop_path(self.attend(x, h, w, mask))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Layer(nn.Module):
    """The blocks of one stage; ``rates`` are their drop path rates."""

    def __init__(self, dim: int, heads: int, side: int, rates: list[float]) -> None:
        super().__init__()
        self.side = side
        self.blocks = nn.ModuleList(
            Block(dim, heads, side, side // 2 if i % 2 else 0, rate)
            for i, rate in enumerate(rates)
        )

    def forward(self, x: Tensor, h: int, w: int) -> Tensor:
        mask = shift_mask(h, w, self.side, self.side // 2, x.device)
        for block in self.blocks:
            x = block(x, h, w, mask)
        return x


class PatchEmbed(nn.Module):
    def __init__(self, in_channels: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, 4, 4)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> tuple[Tensor, int, int]:
        x = F.pad(x, (0, -x.shape[3] % 4, 0, -x.shape[2] % 4))
        x = self.proj(x)
        h, w = x.shape[2:]
        return self.norm(x.flatten(2).transpose(1, 2)), h, w


class PatchMerging(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm(4 * dim)

    def forward(self, x: Tensor, h: int, w: int) -> tuple[Tensor, int, int]:
        x = x.view(len(x), h, w, -1)
        x = F.pad(x, (0, 0, 0, w % 2, 0, h % 2))
        neighbours = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        x = torch.cat(neighbours, -1)
        h, w = x.shape[1:3]
        return self.reduction(self.norm(x.flatten(1, 2))), h, w
