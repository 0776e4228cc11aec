"""Inputs and independent forms of the operations."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = [(5, 4), (3, 6), (1, 1)]


def msda_inputs(
    shapes: list[tuple[int, int]] = LEVELS,
    batch: int = 2,
    queries: int = 7,
    heads: int = 2,
    channels: int = 5,
    points: int = 3,
    dtype: torch.dtype = torch.float64,
    spread: float = 0.4,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw values, locations (some outside, none at an integer) and weights."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*size: int) -> Tensor:
        return torch.rand(size, generator=generator, dtype=torch.float64)

    places = sum(h * w for h, w in shapes)
    sizes = torch.tensor([[w, h] for h, w in shapes], dtype=torch.float64).clamp(min=1)
    sizes = sizes.view(len(shapes), 1, 2)
    locations = draw(batch, queries, heads, len(shapes), points, 2)
    pixels = (locations * (1 + spread) - spread / 2) * sizes
    # Between two integers with a margin: bilinear sampling has a kink at each.
    pixels = pixels.floor() + 0.1 + 0.8 * (pixels - pixels.floor())
    weights = draw(batch, queries, heads, len(shapes), points)
    coordinate = torch.float64 if dtype == torch.float64 else torch.float32
    return (
        (draw(batch, places, heads, channels) * 2 - 1).to(dtype),
        ((pixels + 0.5) / sizes).to(coordinate),
        weights.to(dtype),
    )


def msda_by_grid_sample(
    value: Tensor, shapes: list[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Compute the sums through ``grid_sample``, level by level and head by head."""
    b, _, heads, channels = value.shape
    queries = locations.shape[1]
    out = value.new_zeros(b, heads, channels, queries)
    levels = value.split([h * w for h, w in shapes], dim=1)
    for i, (level, (height, width)) in enumerate(zip(levels, shapes, strict=True)):
        if height * width == 0:
            continue
        for head in range(heads):
            image = level[:, :, head].transpose(1, 2)
            sampled = F.grid_sample(
                image.reshape(b, channels, height, width),
                2 * locations[:, :, head, i] - 1,
                align_corners=False,
            )
            out[:, head] += (sampled * weights[:, None, :, head, i]).sum(-1)
    return out.flatten(1, 2).transpose(1, 2)
