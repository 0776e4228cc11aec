"""Attention among the tokens of all tasks that hands its scores to the next stage.

Source: InvPT, 2022, https://arxiv.org/abs/2203.07997. Clean room, nothing copied; see
:mod:`..interactions.inverted_pyramid` for what differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from mmengine.model import ModuleDict
from torch import Tensor, nn

from .task_maps import by_task, resize_to
from .tokens import to_map, to_tokens


class Scores(NamedTuple):
    """Attention scores before the softmax, and the grid of the queries of a task.

    Shape:
        - values: (B, H, T * Q, T * K), with Q = grid[0] * grid[1]
    """

    values: Tensor
    grid: tuple[int, int]


class CrossTaskAttention(nn.Module):
    """Every place of every task attends to every task.

    Args:
        tasks: Names of the T tasks.
        dim: Channels C.
        heads: Attention heads H; C is a multiple.
        receives: Whether scores of the stage before are mixed in.
        sends: Whether the scores are returned for the next stage.
    """

    def __init__(
        self, tasks: Sequence[str], dim: int, heads: int, receives: bool, sends: bool
    ) -> None:
        super().__init__()
        self.heads = heads
        self.sends = sends
        # As published; not that of one head.
        self.scale = dim**-0.5
        self.local = ModuleDict(
            {
                task: nn.Conv2d(dim, dim, 3, stride=2, padding=1, groups=dim)
                for task in tasks
            }
        )
        self.q = nn.Linear(dim, dim)
        # The bias of the values is that of `proj`.
        self.kv = nn.Linear(dim, 2 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)
        # Mixes the own scores (first half of its inputs) and those of the stage before.
        self.mix = nn.Linear(2 * heads, heads, bias=False) if receives else None

    def forward(
        self, x: Tensor, key_grid: tuple[int, int], before: Scores | None
    ) -> tuple[Tensor, Scores | None]:
        """Attend, at half the size.

        Shape:
            - x: (T * B, C, h, w), all samples of the first task first
            - output: (T * B, C, ceil(h / 2), ceil(w / 2))
        """
        queries = by_task(self.local, x)
        grid = (queries.shape[2], queries.shape[3])
        keys = to_tokens(F.adaptive_avg_pool2d(x, key_grid))
        q = self._split(self.q(to_tokens(queries)))
        k, v = (self._split(part) for part in self.kv(keys).chunk(2, 2))
        scores = None
        if self.sends or self.mix is not None:
            scores = Scores((self.scale * q) @ k.transpose(2, 3), grid)
            if self.mix is not None and before is not None:
                scores = Scores(self.pass_on(scores, before), grid)
            out = scores.values.softmax(3).to(v.dtype) @ v
        else:
            out = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        out = out.unflatten(2, (len(self.local), -1)).permute(2, 0, 3, 1, 4)
        out = self.proj(out.flatten(0, 1).flatten(2))
        return to_map(out, grid), scores if self.sends else None

    def pass_on(self, own: Scores, before: Scores) -> Tensor:
        """Mix both scores, those of the stage before enlarged, over the heads.

        Shape:
            - output: (B, H, T * Q, T * K), with the Q of ``own``
        """
        assert self.mix is not None
        for_own, for_before = self.mix.weight.chunk(2, 1)
        mixed = mix_heads(before.values, for_before)
        enlarged = enlarge(mixed, len(self.local), before.grid, own.grid)
        return mix_heads(own.values, for_own) + enlarged

    def _split(self, x: Tensor) -> Tensor:
        """(T * B, N, C) to (B, H, T * N, C / H)."""
        x = x.unflatten(2, (self.heads, -1)).unflatten(0, (len(self.local), -1))
        return x.permute(1, 3, 0, 2, 4).flatten(2, 3)


def mix_heads(scores: Tensor, weight: Tensor) -> Tensor:
    """A linear map over the heads; (B, H, Q, K) and (H, H) to (B, H, Q, K)."""
    weights = weight.expand(len(scores), -1, -1)
    return torch.bmm(weights, scores.flatten(2)).unflatten(2, scores.shape[2:])


def enlarge(
    scores: Tensor, tasks: int, grid: tuple[int, int], size: tuple[int, int]
) -> Tensor:
    """Resize scores bilinearly on the grid of the queries.

    Keys stand where a channels-last map has its channels: nothing is copied.

    Shape:
        - scores: (B, H, T * grid[0] * grid[1], N)
        - output: (B, H, T * size[0] * size[1], N)
    """
    batch, heads, _, keys = scores.shape
    maps = scores.reshape(batch * heads * tasks, *grid, keys).permute(0, 3, 1, 2)
    maps = resize_to(maps, size).permute(0, 2, 3, 1)
    return maps.reshape(batch, heads, -1, keys)
