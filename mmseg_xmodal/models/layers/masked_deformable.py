"""Deformable attention over many maps, parts of which may be invalid.

Paper: Deformable DETR, 2021, https://arxiv.org/abs/2010.04159. Official code:
https://github.com/fundamentalvision/Deformable-DETR (Apache-2.0). Written from the
paper; the parameters have the names of the official module.

Difference: validity. The four cells around a sampling point are keys of their own,
with the point's logit plus the logarithm of their bilinear weight; invalid cells and
those outside of the map are masked before the softmax. This is a softmax over points
whose weights are divided by the share of what each point sees, so the same operator
gives both: one call for the shares, one for the values. A point that falls outside, or
into a hole, hands its weight to the others, where the published form reads zeros.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils.checkpoint import checkpoint

from mmseg_xmodal.ops import multi_scale_deformable_attention

from .capture import is_captured

Sizes = Sequence[tuple[int, int]]

# Queries whose shares are computed at a time, to save memory.
_QUERIES = 2048
# A share of a cell this small comes from the rounding of coordinates.
_NOTHING = 1e-6


class DeformableAttention(nn.Module):
    """Sample P points of each of M maps per head, and add them up.

    The last projection has no bias: a query that sees no valid cell gets zeros.

    Args:
        dim: Channels E.
        heads: Attention heads H; E is a multiple.
        maps: Number of maps M.
        points: Sampling points P per head and map.
    """

    def __init__(self, dim: int, heads: int, maps: int, points: int) -> None:
        super().__init__()
        self.heads, self.maps, self.points = heads, maps, points
        self.sampling_offsets = nn.Linear(dim, heads * maps * points * 2)
        self.attention_weights = nn.Linear(dim, heads * maps * points)
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim, bias=False)

    def reset_parameters(self) -> None:
        """Start as published: equal weights, the points of a head in one direction."""
        nn.init.zeros_(self.sampling_offsets.weight)
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        angles = torch.arange(self.heads) * (2 * math.pi / self.heads)
        ring = torch.stack([angles.cos(), angles.sin()], 1)
        ring = ring / ring.abs().amax(1, keepdim=True)
        steps = torch.arange(1, self.points + 1).view(1, 1, -1, 1)
        offsets = (ring[:, None, None] * steps).expand(-1, self.maps, -1, -1)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.flatten())

    def forward(
        self,
        x: Tensor,
        places: Tensor,
        source: Tensor,
        seen: Tensor | None,
        sizes: Sizes,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return the attended tokens, and where was sampled with which weights.

        Args:
            x: Queries.
            places: Where each query is, (x, y) as shares of width and height.
            source: The cells of all maps, one map after the other.
            seen: 1 where a cell is valid, else 0; in single precision. None: all are.
            sizes: Height and width of each map.

        Shape:
            - x: (B, Q, E)
            - places: (Q, 2), in [0, 1]
            - source: (B, S, E)
            - seen: (B, S)
            - output: (B, Q, E)
        """
        value = self.value_proj(source)
        locations, logits = self._points(x, places, sizes)
        if seen is None or _all_seen(seen):
            shares = _shares_inside(locations, sizes)
        else:
            value = torch.where(seen[..., None] > 0, value, 0)
            shares = self._shares(seen, locations, sizes)
        sampled = locations, _masked_weights(logits, shares)
        out = multi_scale_deformable_attention(
            value.unflatten(2, (self.heads, -1)), list(sizes), *sampled
        )
        return self.output_proj(out.to(x.dtype)), sampled

    def reach(
        self, seen: Tensor, sampled: tuple[Tensor, Tensor], sizes: Sizes
    ) -> Tensor:
        """Share of the attention that falls onto cells that are seen.

        Shape:
            - seen: (B, S)
            - output: (B, Q, H, 1); 1 for what :meth:`forward` was given, or 0 where a
              query sees nothing
        """
        value = seen[:, :, None, None].expand(-1, -1, self.heads, 1)
        weight = multi_scale_deformable_attention(value, list(sizes), *sampled)
        return weight.unsqueeze(3)

    def _points(self, x: Tensor, places: Tensor, sizes: Sizes) -> tuple[Tensor, Tensor]:
        """Locations (B, Q, H, M, P, 2) and logits (B, Q, H, M, P), in float32."""
        shape = (self.heads, self.maps, self.points)
        offsets = self.sampling_offsets(x).float().unflatten(2, (self.heads, -1))
        steps = offsets / _extents(sizes, self.points, places)
        locations = places.repeat(1, self.maps * self.points).unsqueeze(1) + steps
        return (
            locations.unflatten(3, (*shape[1:], 2)),
            self.attention_weights(x).float().unflatten(2, shape),
        )

    def _shares(self, seen: Tensor, locations: Tensor, sizes: Sizes) -> Tensor:
        """How much of the four cells around each point is seen, (B, Q, H, M, P).

        A point is a query of its own here, and a map a channel of its own.
        """
        rows = torch.eye(len(sizes), dtype=seen.dtype, device=seen.device).unbind()
        own = [row.expand(h * w, -1) for row, (h, w) in zip(rows, sizes, strict=True)]
        value = (seen[:, :, None] * torch.cat(own))[:, :, None]
        points = locations.transpose(3, 4)
        asked = points.flatten(1, 3)[:, :, None, :, None]
        weight = torch.ones_like(asked[..., 0])
        shares = multi_scale_deformable_attention(value, list(sizes), asked, weight)
        return shares.unflatten(1, points.shape[1:4]).transpose(3, 4)


def _all_seen(seen: Tensor) -> bool:
    """Whether it is known that no cell is hidden; a GPU would have to be waited for."""
    known = not (is_captured() or isinstance(seen, FakeTensor))
    return known and seen.device.type == 'cpu' and bool(seen.all())


def _extents(sizes: Sizes, points: int, like: Tensor) -> Tensor:
    """Width and height of the map of each of its points, (M * P * 2).

    Along with (x, y) of all points: a CPU is slow with short runs of numbers.
    """
    return like.new_tensor([side for h, w in sizes for side in (w, h) * points])


def _shares_inside(locations: Tensor, sizes: Sizes) -> Tensor:
    """How much of the four cells around each point lies in the map.

    Shape:
        - locations: (B, Q, H, M, P, 2)
        - output: (B, Q, H, M, P)
    """
    extent = _extents(sizes, locations.shape[4], locations)
    if is_captured():
        return _inside(locations, extent)
    # Some queries at a time, and computed again for the gradient: else four tensors of
    # the size of the locations are kept.
    options: dict[str, Any] = dict(use_reentrant=False, preserve_rng_state=False)
    parts = locations.split(_QUERIES, 1)
    return torch.cat([checkpoint(_inside, p, extent, **options) for p in parts], 1)


def _inside(locations: Tensor, extent: Tensor) -> Tensor:
    pixel = locations.flatten(3) * extent - 0.5
    # At a whole pixel, where points begin, the slope is that towards the next one: of
    # relu it is 0 there, of clamp 1.
    missing = (-pixel).relu() + (pixel - (extent - 1)).clamp(min=0)
    share = (1 - missing).clamp(min=0).view_as(locations)
    return share[..., 0] * share[..., 1]


def _masked_weights(logits: Tensor, shares: Tensor) -> Tensor:
    """Weights of the points: times their shares, they sum to 1 over all maps.

    Only points that see something take part, also in the maximum that keeps the
    exponentials in range: a point in a hole may have any logit.

    Shape:
        - logits: (B, Q, H, M, P)
        - shares: (B, Q, H, M, P), in [0, 1]
        - output: (B, Q, H, M, P); 0 where a query sees nothing
    """
    sees = shares > _NOTHING
    shares = torch.where(sees, shares, 1)
    keys = torch.where(sees, logits + shares.log(), torch.finfo(logits.dtype).min)
    keys = keys.flatten(3).softmax(3).view_as(logits)
    return torch.where(sees, keys / shares, 0)


def places_of(size: tuple[int, int], device: torch.device) -> Tensor:
    """Centres (x, y) of a map's cells as shares of its width and height, (h * w, 2)."""
    y, x = (
        (torch.arange(side, device=device, dtype=torch.float32) + 0.5) / side
        for side in size
    )
    return torch.stack([x.expand(size[0], -1), y[:, None].expand(-1, size[1])], 2).view(
        -1, 2
    )


def sine_position(places: Tensor, dim: int) -> Tensor:
    """Sines and cosines of the position, as in DETR, (Q, 2) to (Q, dim).

    Source: DETR, 2020, https://arxiv.org/abs/2005.12872.
    """
    count = -(-dim // 4)
    powers = torch.arange(count, device=places.device, dtype=torch.float32) / count
    phase = places[:, :, None] * (2 * math.pi) * 10000**-powers
    return torch.cat([phase.sin(), phase.cos()], 2).flatten(1)[:, :dim]
