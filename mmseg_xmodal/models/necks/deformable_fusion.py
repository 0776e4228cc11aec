"""One pyramid samples all levels of all modalities.

Not a published network: the encoder of Deformable DETR (2021,
https://arxiv.org/abs/2010.04159), whose queries sample the levels of several
modalities instead of one. As the sampling points are learned per query, the modalities
need not lie exactly on each other.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine.model import ModuleList
from torch import Tensor, nn

from mmseg_xmodal.registry import MODELS

from ..fusion.mean import MeanFusion
from ..layers.drop_path import DropPath
from ..layers.initialisation import segformer_init
from ..layers.map_probe import MapProbe, ShownMap
from ..layers.masked_deformable import (
    DeformableAttention,
    Sizes,
    places_of,
    sine_position,
)
from ..layers.stacked_levels import check_counts
from ..layers.stacked_neck import StackedNeck
from ..layers.token_attention import check_heads
from ..layers.tokens import to_map, to_tokens


class DeformableBlock(nn.Module):
    """Deformable attention, then a feed-forward layer; both pre-normed.

    Args:
        dim: Channels E.
        heads: Attention heads; E is a multiple.
        maps: Number of maps that are sampled.
        points: Sampling points per head and map.
        mlp_ratio: Hidden channels of the feed-forward layer over E.
        drop_path: Rate of stochastic depth.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        maps: int,
        points: int,
        mlp_ratio: int,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = DeformableAttention(dim, heads, maps, points)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(
            nn.Linear(dim, mlp_ratio * dim), nn.GELU(), nn.Linear(mlp_ratio * dim, dim)
        )
        self.drop_path = DropPath(drop_path)

    def forward(
        self,
        x: Tensor,
        position: Tensor,
        places: Tensor,
        source: Tensor,
        seen: Tensor | None,
        sizes: Sizes,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """(B, Q, E) to (B, Q, E); arguments as in :class:`DeformableAttention`."""
        query = self.norm1(x) + position
        out, sampled = self.attn(query, places, source, seen, sizes)
        x = x + self.drop_path(out)
        return x + self.drop_path(self.mlp(self.norm2(x))), sampled


@MODELS.register_module()
class DeformableFusionNeck(StackedNeck):
    """Multi-scale, multi-modal deformable attention; one pyramid comes out.

    The queries are one stream, or the mean of the valid streams, at all levels. Each
    samples ``points`` points of every level of every stream. A cell without a valid
    pixel is never sampled and starts as zero, so that its content has no influence.
    Behind ``fusion=dict(type='mmseg_xmodal.StackStreams')``.

    Args:
        in_channels: Channels C of one stream, per level; also of the output.
        num_streams: Number of streams N.
        anchor: Number of the stream that asks; None = the mean of the streams.
        embed_dims: Channels E in which all levels meet.
        num_heads: Attention heads; None = one per 32 channels.
        points: Sampling points per head, level and stream.
        depth: Blocks.
        mlp_ratio: Hidden channels of the feed-forward layers over E.
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
        embed_dims: int = 128,
        num_heads: int | None = None,
        points: int = 4,
        depth: int = 1,
        mlp_ratio: int = 2,
        drop_path_rate: float = 0.0,
        validity: bool = True,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(in_channels, num_streams, validity, init_cfg)
        check_counts(
            self, embed_dims=embed_dims, points=points, depth=depth, mlp_ratio=mlp_ratio
        )
        self.check_stream('anchor', anchor)
        self.anchor = anchor
        heads = check_heads(type(self).__name__, embed_dims, num_heads)
        levels = len(self.in_channels)
        self.merge = MeanFusion()
        self.query_in, self.value_in, self.out = (
            ModuleList(nn.Linear(a, b) for a, b in pairs)
            for pairs in (
                [(c, embed_dims) for c in self.in_channels],
                [(c, embed_dims) for c in self.in_channels],
                [(embed_dims, c) for c in self.in_channels],
            )
        )
        self.level = nn.Parameter(torch.empty(levels, embed_dims))
        self.stream = nn.Parameter(torch.empty(num_streams, embed_dims))
        for embedding in (self.level, self.stream):
            nn.init.trunc_normal_(embedding, std=0.02)
        self.value_norm = nn.LayerNorm(embed_dims)
        self.blocks = ModuleList(
            DeformableBlock(
                embed_dims,
                heads,
                num_streams * levels,
                points,
                mlp_ratio,
                drop_path_rate,
            )
            for _ in range(depth)
        )
        self.probe = MapProbe()
        segformer_init(self)
        for block in self.blocks:
            block.attn.reset_parameters()

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return one pyramid."""
        levels = self.read(inputs)
        sizes = [(feats[0].shape[2], feats[0].shape[3]) for feats, _ in levels]
        base = [self._base(feats, valid) for feats, valid in levels]
        source, seen = self._source(levels)
        places = [places_of(size, source.device) for size in sizes]
        position = torch.cat(
            [
                sine_position(place, len(self.level[i])).to(source.dtype)
                + self.level[i].to(source.dtype)
                for i, place in enumerate(places)
            ]
        )
        x = torch.cat(
            [f(to_tokens(b)) for f, b in zip(self.query_in, base, strict=True)], 1
        )
        place = torch.cat(places)
        for block in self.blocks:
            x, sampled = block(
                x, position, place, source, seen, sizes * self.num_streams
            )
        if self.probe.is_watched:
            self.probe(self._maps(block.attn, seen, sampled, sizes))
        parts = x.split([h * w for h, w in sizes], 1)
        return tuple(
            b + to_map(out(part), size)
            for b, out, part, size in zip(base, self.out, parts, sizes, strict=True)
        )

    def _base(self, feats: list[Tensor], valid: list[Tensor] | None) -> Tensor:
        """The map that asks, (B, C, h, w)."""
        if self.anchor is not None:
            return feats[self.anchor]
        return self.merge(feats, valid)[1]

    def _source(
        self, levels: list[tuple[list[Tensor], list[Tensor] | None]]
    ) -> tuple[Tensor, Tensor | None]:
        """Cells of all levels, stream by stream, (B, S, E), and validity (B, S)."""
        cells, flags = [], []
        for n in range(self.num_streams):
            for i, (feats, valid) in enumerate(levels):
                tokens = self.value_in[i](to_tokens(feats[n]))
                cells.append(tokens + (self.level[i] + self.stream[n]).to(tokens.dtype))
                if valid is not None:
                    flags.append((valid[n].flatten(1) > 0).float())
        seen = torch.cat(flags, 1) if flags else None
        return self.value_norm(torch.cat(cells, 1)), seen

    @torch.no_grad()
    def _maps(
        self,
        attn: DeformableAttention,
        seen: Tensor | None,
        sampled: tuple[Tensor, Tensor],
        sizes: list[tuple[int, int]],
    ) -> list[ShownMap]:
        """The share of its attention that each place gives to each stream."""
        all_sizes = sizes * self.num_streams
        if seen is None:
            cells = sum(h * w for h, w in all_sizes)
            seen = sampled[0].new_ones(len(sampled[0]), cells)
        own = torch.arange(seen.shape[1], device=seen.device)
        own = own // (seen.shape[1] // self.num_streams)
        reach = torch.cat(
            [
                attn.reach(seen * (own == n), sampled, all_sizes).mean(2)
                for n in range(self.num_streams)
            ],
            2,
        )
        shares = reach / reach.sum(2, keepdim=True).clamp(min=1e-6)
        parts = shares.split([h * w for h, w in sizes], 1)
        return [
            ShownMap(
                f'level {i}: attention to {{{n}}}',
                part[..., n].unflatten(1, sizes[i]),
                (0, 1),
            )
            for i, part in enumerate(parts)
            for n in range(self.num_streams)
        ]
