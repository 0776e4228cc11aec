"""Pyramids of several modalities attend to each other.

Not a published network: the cross-attention of Attention Is All You Need (2017,
https://arxiv.org/abs/1706.03762) between streams, with keys from a smaller map as in
SegFormer (2021, https://arxiv.org/abs/2105.15203). What is added: a missing or invalid
place is no key, and the mean that makes the smaller map leaves it out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.model import ModuleList
from torch import Tensor, nn

from mmseg_xmodal.registry import MODELS

from ..fusion.mean import MeanFusion
from ..layers.drop_path import DropPath
from ..layers.initialisation import segformer_init
from ..layers.map_probe import MapProbe, ShownMap
from ..layers.mit import MixFFN
from ..layers.stacked_levels import check_counts, per_level
from ..layers.stacked_neck import StackedNeck
from ..layers.token_attention import TokenAttention, check_heads
from ..layers.tokens import to_map, to_tokens


class CrossModalBlock(nn.Module):
    """Attention over the keys of several streams, then MixFFN; both pre-normed.

    Args:
        dim: Channels C.
        num_streams: Number of streams N.
        heads: Attention heads; C is a multiple.
        reduction: By how much the map of the keys is smaller, per side.
        anchor: The stream that attends to the others; None = all to all.
        mlp_ratio: Hidden channels of the MixFFN over C.
        drop_path: Rate of stochastic depth.
    """

    def __init__(
        self,
        dim: int,
        num_streams: int,
        heads: int,
        reduction: int,
        anchor: int | None,
        mlp_ratio: int,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.reduction = reduction
        self.anchor = anchor
        self.sources = [i for i in range(num_streams) if i != anchor]
        self.norm1 = nn.LayerNorm(dim)
        # Tells the streams apart, of which all share the projections.
        self.stream = nn.Parameter(torch.zeros(num_streams, 1, dim))
        nn.init.trunc_normal_(self.stream, std=0.02)
        self.attn = TokenAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MixFFN(dim, mlp_ratio * dim)
        self.drop_path = DropPath(drop_path)

    def forward(
        self, x: Tensor, seen: Tensor | None, size: tuple[int, int]
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor | None]]:
        """Return the streams, and what the attention compared.

        Shape:
            - x: (B, N, L, C)
            - seen: (B, N, L), bool, True where a place may be attended to; or None
            - output: (B, N, L, C); with an anchor the others are as they were
        """
        y = self.norm1(x) + self.stream
        queries = y if self.anchor is None else y[:, self.anchor : self.anchor + 1]
        keys, mask = self._keys(y, seen, size)
        compared = (queries.flatten(1, 2), keys, mask)
        out = self.attn(*compared).unflatten(1, (queries.shape[1], -1))
        own = x if self.anchor is None else x[:, self.anchor : self.anchor + 1]
        own = own + self.drop_path(out)
        tokens = self.norm2(own).flatten(0, 1)
        own = own + self.drop_path(self.mlp(tokens, size).view_as(own))
        if self.anchor is not None:
            before, after = x[:, : self.anchor], x[:, self.anchor + 1 :]
            own = torch.cat([before, own, after], 1)
        return own, compared

    def key_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the map of the keys."""
        return -(-size[0] // self.reduction), -(-size[1] // self.reduction)

    def _pool(self, x: Tensor) -> Tensor:
        """Means of the windows, (B, C, h, w) to a map of :meth:`key_size`.

        Windows at the borders may be smaller. Not adaptive pooling, whose gradient has
        no deterministic form on CUDA.
        """
        side = self.reduction
        return F.avg_pool2d(x, side, side, ceil_mode=True, count_include_pad=False)

    def _keys(
        self, y: Tensor, seen: Tensor | None, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor | None]:
        """Tokens of the keys (B, K, C) and which of them count (B, K)."""
        if self.anchor is not None:
            y = torch.stack([y[:, i] for i in self.sources], 1)
            if seen is not None:
                seen = torch.stack([seen[:, i] for i in self.sources], 1)
        if self.reduction == 1:
            return y.flatten(1, 2), None if seen is None else seen.flatten(1)
        streams, tokens = y.shape[1], y.flatten(0, 1)
        if seen is None:
            pooled = self._pool(to_map(tokens, size))
            return to_tokens(pooled).unflatten(0, (-1, streams)).flatten(1, 2), None
        # In single precision at least: the share that is seen may be small.
        weight = (
            seen.flatten(0, 1)
            .unsqueeze(2)
            .to(torch.promote_types(y.dtype, torch.float32))
        )
        total = self._pool(to_map(tokens * weight, size))
        share = self._pool(to_map(weight, size))
        pooled = torch.where(share > 0, total / share.clamp(min=1e-6), 0).to(y.dtype)
        keys = to_tokens(pooled).unflatten(0, (-1, streams)).flatten(1, 2)
        return keys, (share > 0).flatten(1).unflatten(0, (-1, streams)).flatten(1)


@MODELS.register_module()
class CrossModalAttentionNeck(StackedNeck):
    """Streams attend to each other at each level; one pyramid comes out.

    All to all: every stream attends to all streams, and the mean over the valid ones
    comes out. With an anchor: this stream attends to all others and comes out.
    A place without a valid pixel in a stream is never attended to and starts as zero,
    so that its content has no influence. Behind
    ``fusion=dict(type='mmseg_xmodal.StackStreams')``.

    Args:
        in_channels: Channels C of one stream, per level; also of the output.
        num_streams: Number of streams N.
        anchor: Number of the anchor stream; None = all to all.
        reductions: By how much the map of the keys is smaller, per side; one number or
            one per level.
        num_heads: One number or one per level; None = one per 32 channels.
        depth: Blocks per level.
        mlp_ratio: Hidden channels of the feed-forward layers over C.
        drop_path_rate: Stochastic depth.
        validity: Whether the levels end with one validity channel per stream.
        init_cfg: As in mmengine.

    Shape:
        - input: (B, N * C + N, h, w) per level, or (B, N * C, h, w) without validity.
        - output: (B, C, h, w) per level.

    Raises:
        ValueError: If a setting does not fit the levels or the streams.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_streams: int = 2,
        anchor: int | None = None,
        reductions: int | Sequence[int] = (8, 4, 2, 1),
        num_heads: int | Sequence[int] | None = None,
        depth: int = 1,
        mlp_ratio: int = 2,
        drop_path_rate: float = 0.0,
        validity: bool = True,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(in_channels, num_streams, validity, init_cfg)
        check_counts(self, reductions=reductions, depth=depth, mlp_ratio=mlp_ratio)
        self.check_stream('anchor', anchor)
        if anchor is not None and num_streams < 2:
            raise ValueError(
                f'anchor={anchor} attends to the other streams, but num_streams='
                f'{num_streams}, expected 2 or more. Set anchor=None.'
            )
        self.anchor = anchor
        levels = len(self.in_channels)
        sides = per_level('reductions', reductions, levels)
        heads = per_level('num_heads', num_heads, levels)
        self.levels = ModuleList(
            ModuleList(
                CrossModalBlock(
                    dim,
                    num_streams,
                    check_heads(type(self).__name__, dim, heads[i]),
                    sides[i],
                    anchor,
                    mlp_ratio,
                    drop_path_rate,
                )
                for _ in range(depth)
            )
            for i, dim in enumerate(self.in_channels)
        )
        self.merge = MeanFusion()
        self.probe = MapProbe()
        segformer_init(self)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return one pyramid."""
        outs, maps = [], []
        for i, (feats, valid) in enumerate(self.read(inputs)):
            size = (feats[0].shape[2], feats[0].shape[3])
            x = torch.stack([to_tokens(f) for f in feats], 1)
            seen = None
            if valid is not None:
                seen = torch.stack([v.flatten(1) > 0 for v in valid], 1)
            for block in self.levels[i]:
                x, compared = block(x, seen, size)
            if self.probe.is_watched:
                maps += self._maps(i, block, compared, size)
            streams = [to_map(t, size) for t in x.unbind(1)]
            if self.anchor is None:
                outs.append(self.merge(streams, valid)[1])
            else:
                outs.append(streams[self.anchor])
        if self.probe.is_watched:
            self.probe(maps)
        return tuple(outs)

    def _maps(
        self,
        level: int,
        block: CrossModalBlock,
        compared: tuple[Tensor, Tensor, Tensor | None],
        size: tuple[int, int],
    ) -> list[ShownMap]:
        """What the last block attends to.

        All to all: the share of its attention that each place gives to each stream.
        With an anchor: what each place of the other streams gets, where 1 is what it
        gets from even attention.
        """
        if self.anchor is not None:
            weights = block.attn.weights(*compared, groups=0)
            got = weights.mean(1) * weights.shape[2]
            got = got.unflatten(1, (len(block.sources), *block.key_size(size)))
            return [
                ShownMap(f'level {level}: attention that {{{m}}} gets', got[:, j])
                for j, m in enumerate(block.sources)
            ]
        queries = compared[0].shape[1] // (size[0] * size[1])
        share = block.attn.weights(*compared, groups=len(block.sources))
        share = share.unflatten(1, (queries, *size)).mean(1)
        return [
            ShownMap(f'level {level}: attention to {{{m}}}', share[..., j], (0, 1))
            for j, m in enumerate(block.sources)
        ]
