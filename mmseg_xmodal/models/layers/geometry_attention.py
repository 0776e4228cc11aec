"""Geometry self-attention of DFormerv2: depth as a prior on who attends to whom.

Paper: DFormerv2: Geometry Self-Attention for RGBD Semantic Segmentation, 2025,
https://arxiv.org/abs/2504.04701. Depth is never encoded: the difference in depth of two
places, and their distance in the image, lower the score between them.

Differences, none of which changes a number: what all blocks of a stage share (rotary
angles, distances) is made once per stage, and attention runs in
:func:`decayed_attention`. Invalid depth is understood: a pair of places of which one
has no depth is as far apart as its places are, and no further.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .capture import is_captured
from .decayed_attention import decayed_attention
from .depthwise import depthwise_5x5
from .slices import is_plain
from .tokens import to_map, to_tokens

_ROUNDING = 1e-5


class Geometry(NamedTuple):
    """What the blocks of one stage share.

    Args:
        size: Height and width of the map.
        cos: Of the rotary angles, (H * W, 1, d / 2).
        sin: As ``cos``.
        turn: cos + i sin, or None where a graph is captured (exporters know no complex
            numbers).
        distances: For each pass the distances in the image and in depth, see
            :func:`decayed_attention`. Two passes (rows, columns) or one (all places).
    """

    size: tuple[int, int]
    cos: Tensor
    sin: Tensor
    turn: Tensor | None
    distances: tuple[tuple[Tensor, Tensor], ...]


def resize_depth(
    depth: Tensor, valid: Tensor | None, size: tuple[int, int]
) -> tuple[Tensor, Tensor | None]:
    """Resize the prior; values come from valid pixels only.

    Returns:
        The prior, and where any valid pixel stands behind it (None = everywhere).

    Shape:
        - depth: (B, C, H, W)
        - valid: (B, 1, H, W), in [0, 1]
        - output: (B, C, h, w), (B, 1, h, w)
    """
    if valid is None:
        return F.interpolate(depth, size, mode='bilinear', align_corners=False), None
    share = F.interpolate(valid, size, mode='bilinear', align_corners=False)
    depth = F.interpolate(depth * valid, size, mode='bilinear', align_corners=False)
    # No division where all are valid: exactly the published numbers there.
    mixed = (share > 0) & (share < 1 - _ROUNDING)
    return depth / torch.where(mixed, share, 1), share > 0


def _differences(lines: Tensor, known: Tensor | None) -> Tensor:
    """Mean over the channels of |D_i - D_j|; 0 where one of the two is unknown.

    Shape:
        - lines: (N, C, L); known: (N, L)
        - output: (N, L, L)
    """
    # Of a permuted view the differences would be permuted too, and slow to read.
    lines = lines.contiguous()
    apart = (lines.unsqueeze(3) - lines.unsqueeze(2)).abs_()
    apart = apart.squeeze(1) if lines.shape[1] == 1 else apart.mean(1)
    if known is None:
        return apart
    return apart * (known.unsqueeze(2) & known.unsqueeze(1))


def _places(count: int, like: Tensor) -> Tensor:
    place = torch.arange(count, device=like.device, dtype=like.dtype)
    return (place[:, None] - place).abs_()


def _distances(
    depth: Tensor, known: Tensor | None, full: bool
) -> tuple[tuple[Tensor, Tensor], ...]:
    height, width = depth.shape[2:]
    rows, columns = _places(height, depth), _places(width, depth)
    if full:
        everywhere = rows[:, None, :, None] + columns[None, :, None, :]
        flat = None if known is None else known.flatten(1)
        place = everywhere.reshape(height * width, height * width)
        return ((place, _differences(depth.flatten(2), flat)),)
    by_row = depth.transpose(1, 2).flatten(0, 1)
    by_column = depth.permute(0, 3, 1, 2).flatten(0, 1)
    known_row = known_column = None
    if known is not None:
        known_row = known[:, 0].flatten(0, 1)
        known_column = known[:, 0].transpose(1, 2).flatten(0, 1)
    return (
        (columns, _differences(by_row, known_row)),
        (rows, _differences(by_column, known_column)),
    )


def make_geometry(
    depth: Tensor,
    valid: Tensor | None,
    size: tuple[int, int],
    head_dim: int,
    full: bool,
) -> Geometry:
    """Make what the blocks of one stage share.

    Args:
        depth: The prior at input resolution.
        valid: Its validity, or None.
        size: Height and width of the stage's map.
        head_dim: Channels of one attention head, d.
        full: Whether every place attends to all, or to its row and column.

    Shape:
        - depth: (B, C, H, W); valid: (B, 1, H, W)
    """
    # As the official constants: float32 first, whatever the precision of the model.
    device = depth.device
    dtype = torch.float64 if depth.dtype == torch.float64 else torch.float32
    with torch.autocast(device.type, enabled=False):
        angle = 1.0 / (10000 ** torch.linspace(0, 1, head_dim // 2, device=device))
        count = size[0] * size[1]
        place = torch.arange(count, device=device, dtype=dtype)
        phase = place[:, None, None] * angle.to(dtype)
        cos, sin = phase.cos(), phase.sin()
        depth, known = resize_depth(
            depth.to(dtype), None if valid is None else valid.to(dtype), size
        )
        distances = _distances(depth, known, full)
    turn = None if is_captured() else torch.complex(cos, sin)
    return Geometry(size, cos, sin, turn, distances)


def decay_rates(heads: int, decay_range: float) -> tuple[float, ...]:
    """ln(1 - 2**(-2 - decay_range * n / heads)) for head n, as float32 has it."""
    # Named device: modules may be built on 'meta'.
    steps = decay_range * torch.arange(heads, device='cpu') / heads
    return tuple(torch.log(1 - 2 ** (-2 - steps)).tolist())


def rotate(x: Tensor, geometry: Geometry) -> Tensor:
    """Turn each pair of channels by an angle that grows with the position.

    Shape:
        - x: (B, N, heads, d)
        - output: as ``x``
    """
    pairs = x.to(geometry.cos.dtype).unflatten(3, (-1, 2))
    if geometry.turn is not None:
        turned = torch.view_as_complex(pairs) * geometry.turn
        return torch.view_as_real(turned).flatten(3)
    a, b = pairs.unbind(4)
    cos, sin = geometry.cos, geometry.sin
    return torch.stack((a * cos - b * sin, b * cos + a * sin), 4).flatten(3)


def scaled_linear(linear: Any, x: Tensor, gamma: Tensor | None) -> Tensor:
    """``gamma * linear(x)``, with the factors in the matrix.

    Shape:
        - x: (..., C_in); gamma: (C_out,) or None
        - output: (..., C_out)
    """
    if gamma is None:
        return linear(x)
    if not is_plain(linear):
        return gamma * linear(x)
    return F.linear(x, gamma[:, None] * linear.weight, gamma * linear.bias)


class GeometryAttention(nn.Module):
    """Self-attention with rotary positions and decay by distance and depth.

    Args:
        dim: Channels.
        heads: Attention heads; ``dim`` is an even multiple.
        decay_range: How far the decays of the heads are apart, see :func:`decay_rates`.

    Shape:
        - x: tokens (B, N, dim)
        - output: as ``x``
    """

    def __init__(self, dim: int, heads: int, decay_range: float) -> None:
        super().__init__()
        self.heads = heads
        self.decay = decay_rates(heads, decay_range)
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)
        self.lepe = nn.Conv2d(dim, dim, 5, padding=2, groups=dim)
        self.out = nn.Linear(dim, dim)
        # Slopes of the distance in the image and in depth.
        self.slopes = nn.Parameter(torch.ones(2))

    def forward(
        self, x: Tensor, geometry: Geometry, gamma: Tensor | None = None
    ) -> Tensor:
        """Attend, add the local encoding of the values, project, scale by gamma."""
        height, width = geometry.size
        q, k = (
            rotate(layer(x).unflatten(2, (self.heads, -1)), geometry)
            for layer in (self.q, self.k)
        )
        v = self.v(x)
        local = depthwise_5x5(self.lepe, to_map(v, geometry.size))
        v = v.unflatten(2, (self.heads, -1))
        if len(geometry.distances) == 1:
            v = self._attend(q, k, v, geometry, 0)
        else:
            q, k, v = (t.unflatten(1, (height, width)).flatten(0, 1) for t in (q, k, v))
            v = self._attend(q, k, v, geometry, 0)
            q, k, v = (
                t.unflatten(0, (-1, height)).transpose(1, 2).flatten(0, 1)
                for t in (q, k, v)
            )
            v = self._attend(q, k, v, geometry, 1)
            v = v.unflatten(0, (-1, width)).transpose(1, 2).flatten(1, 2)
        local.add_(to_map(v.flatten(2), geometry.size))
        return scaled_linear(self.out, to_tokens(local), gamma)

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, geometry: Geometry, index: int
    ) -> Tensor:
        place, depth = geometry.distances[index]
        return decayed_attention(q, k, v, place, depth, self.slopes, self.decay)
