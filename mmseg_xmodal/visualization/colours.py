"""Colours for maps: scalars, label ids, errors, and marks for pixels without data.

Pure functions on numpy arrays. Every image here is RGB, uint8, (H, W, 3).
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np

Colour = tuple[int, int, int]

# Light blue-grey and vermilion stay apart for colour-blind readers, too.
CORRECT: Colour = (198, 214, 226)
WRONG: Colour = (213, 62, 0)


def colour_scalar(
    values: np.ndarray,
    valid: np.ndarray,
    limits: tuple[float, float] | None = None,
) -> tuple[np.ndarray, tuple[float, float] | None]:
    """Colour a scalar map (viridis: dark is low, yellow is high).

    The ends of the colour map are the 1st and the 99th percentile of the valid values,
    so that single outliers do not take the contrast; values beyond are clipped.

    Args:
        values: Values in any unit.
        valid: Which of them count.
        limits: Values at both ends of the colour map, instead of the percentiles.

    Returns:
        The image, and the values at both ends of the colour map (None where no pixel
        is valid).

    Shape:
        - values, valid: (H, W).
        - image: (H, W, 3), uint8, RGB.
    """
    values = values.astype(np.float32)
    counted = values[valid & np.isfinite(values)]
    if counted.size == 0:
        return np.zeros((*values.shape, 3), np.uint8), None
    if limits is None:
        limits = percentiles(counted)
    low, high = limits
    span = high - low or 1.0
    with np.errstate(invalid='ignore'):
        unit = np.clip(np.nan_to_num((values - low) / span), 0, 1)
    return viridis(unit), (low, high)


def percentiles(values: np.ndarray) -> tuple[float, float]:
    """The 1st and the 99th percentile."""
    low, high = (float(v) for v in np.percentile(values, (1, 99)))
    return low, high


def stretch_channels(values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """False colours: three channels, each stretched to its own range.

    Args:
        values: Three channels in any unit.
        valid: Which pixels count.

    Shape:
        - values: (H, W, 3).
        - valid: (H, W).
    """
    image = np.zeros(values.shape, np.uint8)
    for c in range(values.shape[2]):
        channel = values[..., c].astype(np.float32)
        counted = channel[valid & np.isfinite(channel)]
        if counted.size:
            low, high = np.percentile(counted, (1, 99))
            unit = np.nan_to_num((channel - low) / (high - low or 1.0))
            image[..., c] = np.round(np.clip(unit, 0, 1) * 255)
    return image


def colour_labels(
    labels: np.ndarray, palette: Sequence[Sequence[int]]
) -> tuple[np.ndarray, np.ndarray]:
    """Colour a label map.

    Args:
        labels: Class ids.
        palette: RGB colour of each class.

    Returns:
        The image, and where the id has no colour (ignored pixels).

    Shape:
        - labels: (H, W), integer.
        - image: (H, W, 3), uint8, RGB; mask: (H, W), bool.
    """
    outside = (labels < 0) | (labels >= len(palette))
    colours = np.asarray(palette, np.uint8).reshape(-1, 3)
    return colours[np.where(outside, 0, labels)], outside


def error_map(
    prediction: np.ndarray, truth: np.ndarray, ignored: np.ndarray
) -> tuple[np.ndarray, float | None]:
    """Colour correct and wrong pixels.

    Args:
        prediction: Predicted class ids.
        truth: True class ids.
        ignored: Pixels that do not count.

    Returns:
        The image, and the share of wrong pixels among those that count, in [0, 1]
        (None where none counts).

    Shape:
        - prediction, truth, ignored: (H, W).
        - image: (H, W, 3), uint8, RGB.
    """
    wrong = (prediction != truth) & ~ignored
    image = np.where(wrong[..., None], WRONG, CORRECT).astype(np.uint8)
    counted = int((~ignored).sum())
    return image, (float(wrong.sum()) / counted if counted else None)


def hatch(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the image with grey diagonal stripes where ``mask`` is True.

    Shape:
        - image: (H, W, 3), uint8.
        - mask: (H, W), bool.
    """
    y, x = np.indices(mask.shape)
    stripes = np.where(((x + y) % 8 < 3)[..., None], 80, 160).astype(np.uint8)
    return np.where(mask[..., None], stripes, image)


def viridis(unit: np.ndarray) -> np.ndarray:
    """Colour values in [0, 1], of any shape (H, W)."""
    grey = np.round(unit * 255).astype(np.uint8)
    return np.ascontiguousarray(
        cv2.applyColorMap(grey, cv2.COLORMAP_VIRIDIS)[..., ::-1]
    )


def default_palette(num_classes: int) -> list[list[int]]:
    """RGB colours that are apart for neighbouring class numbers, always the same."""
    palette = []
    for i in range(num_classes):
        # The golden angle never repeats a hue; three brightnesses part the near ones.
        r, g, b = colorsys.hsv_to_rgb((i * 0.618034) % 1, 0.75, (0.95, 0.7, 0.5)[i % 3])
        palette.append([round(255 * r), round(255 * g), round(255 * b)])
    return palette
