"""Tiles of attention and gate maps."""

from __future__ import annotations

import cv2
import numpy as np

from .colours import colour_scalar, viridis
from .panels import Tile


def map_tile(
    caption: str,
    values: np.ndarray,
    size: tuple[int, int],
    limits: tuple[float, float] | None = None,
) -> Tile:
    """Colour a map (viridis: dark is low, yellow is high) at the size of the picture.

    Its cells stay visible: nothing is interpolated.

    Args:
        caption: Text above it.
        values: One number per cell of the map.
        size: Height and width of the picture in pixels.
        limits: Values at the two ends of the colours; None = the 1st and the 99th
            percentile of this map.

    Shape:
        - values: (h, w)
    """
    if limits is None:
        image, limits = colour_scalar(values, np.isfinite(values))
    else:
        low, high = limits
        image = viridis(np.clip((values - low) / (high - low), 0, 1))
    shown = (size[1], size[0])
    image = cv2.resize(image, shown, interpolation=cv2.INTER_NEAREST)
    return Tile(image, f'{caption}, mean {values.mean():.3g}', limits=limits)
