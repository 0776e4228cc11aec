"""Panels: several pictures of one sample side by side, with captions and a legend.

Pure functions on numpy arrays. Every image here is RGB, uint8, (H, W, 3).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

from .colours import Colour, hatch, viridis
from .text import draw_text, format_number, text_size

Legend = Sequence[tuple[str, Colour | None]]

WHITE: Colour = (255, 255, 255)
BLACK: Colour = (20, 20, 20)
_GAP = 8


@dataclasses.dataclass(frozen=True)
class Tile:
    """One picture of a panel.

    Args:
        image: The picture.
        caption: Text above it.
        marked: Pixels that are hatched: invalid, ignored or missing.
        limits: Values at the two ends of the colour map; draws a scale bar.
        unit: Unit of the limits.
        note: Text across the picture.
        smooth: Whether neighbouring pixels may be mixed when the picture shrinks;
            False for label maps.
        overlay: Draws into the picture at the size that it is shown in (RGB), so that
            lines and letters keep theirs. Also gets the scale of letters.

    Shape:
        - image: (H, W, 3), uint8, RGB.
        - marked: (H, W), bool.
    """

    image: np.ndarray
    caption: str
    marked: np.ndarray | None = None
    limits: tuple[float, float] | None = None
    unit: str | None = None
    note: str | None = None
    smooth: bool = True
    overlay: Callable[[np.ndarray, float], None] | None = None


def compose(
    tiles: Sequence[Tile],
    legend: Legend = (),
    tile_width: tuple[int, int] = (240, 640),
    max_columns: int = 5,
) -> np.ndarray:
    """Put tiles into one panel, with captions above, scale bars and a legend below.

    Args:
        tiles: Pictures, all of one size.
        legend: Names and colours; the colour None stands for the hatching.
        tile_width: Smallest and largest width of a tile in pixels. Smaller pictures
            grow by a whole factor, larger ones shrink.
        max_columns: Tiles in one row.

    Raises:
        ValueError: If there is no tile or the sizes differ.
    """
    sizes = {tile.image.shape[:2] for tile in tiles}
    if len(sizes) != 1:
        raise ValueError(
            f'A panel got {len(tiles)} tiles of the sizes {sorted(sizes)}, expected '
            'one size: resize the pictures before (ModalityView.resized).'
        )
    height, width = _tile_size(sizes.pop(), tile_width)
    scale = min(max(width / 620, 0.42), 0.75)
    columns = math.ceil(len(tiles) / math.ceil(len(tiles) / max_columns))
    rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    total = columns * width + (columns + 1) * _GAP
    parts = [_row(row, (height, width), total, scale) for row in rows]
    if legend:
        parts.append(_legend(legend, total, scale))
    parts.append(np.full((_GAP, total, 3), WHITE, np.uint8))
    return np.concatenate(parts)


def save_panel(path: str | Path, panel: np.ndarray) -> None:
    """Write a panel; the suffix of the path chooses the format.

    Args:
        path: File to write; missing folders are made.
        panel: The image, RGB.

    Shape:
        - panel: (H, W, 3), uint8.

    Raises:
        ValueError: If OpenCV cannot write files with this suffix.
    """
    path = Path(path)
    if not path.suffix or not cv2.haveImageWriter(path.name):
        raise ValueError(
            f'{path}: OpenCV writes no {path.suffix!r} files, use .png or .jpg.'
        )
    _, data = cv2.imencode(path.suffix, np.ascontiguousarray(panel[..., ::-1]))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.tobytes())


def _tile_size(size: tuple[int, int], limits: tuple[int, int]) -> tuple[int, int]:
    """Height and width of a tile for pictures of this size."""
    height, width = size
    smallest, largest = limits
    if width > largest:
        return max(1, round(height * largest / width)), largest
    factor = math.ceil(smallest / width)
    return height * factor, width * factor


def _row(
    tiles: Sequence[Tile], size: tuple[int, int], total: int, scale: float
) -> np.ndarray:
    """One row of tiles on white, ``total`` pixels wide."""
    line = text_size('Ag', scale)[1] + 10
    foot = line + 2 if any(tile.limits for tile in tiles) else 0
    height, width = size
    row = np.full((_GAP + line + height + foot, total, 3), WHITE, np.uint8)
    for i, tile in enumerate(tiles):
        x = _GAP + i * (width + _GAP)
        top = _GAP + line
        draw_text(row, tile.caption, (x, top - 7), scale, BLACK, width)
        row[top : top + height, x : x + width] = _picture(tile, size, scale)
        if tile.limits:
            bar = row[top + height :, x : x + width]
            _scale_bar(bar, tile.limits, tile.unit, scale)
    return row


def _picture(tile: Tile, size: tuple[int, int], scale: float) -> np.ndarray:
    """The picture of a tile at its size, hatched, with its note."""
    shape = (size[1], size[0])
    shrinks = size[0] < tile.image.shape[0]
    interpolation = cv2.INTER_AREA if shrinks and tile.smooth else cv2.INTER_NEAREST
    image = cv2.resize(
        np.ascontiguousarray(tile.image), shape, interpolation=interpolation
    )
    if tile.marked is not None:
        mask = tile.marked.astype(np.uint8)
        mask = cv2.resize(mask, shape, interpolation=cv2.INTER_NEAREST)
        image = hatch(image, mask > 0)
    if tile.overlay is not None:
        tile.overlay(image, scale)
    if tile.note:
        width, height = text_size(tile.note, scale)
        x, y = max(0, (size[1] - width) // 2), (size[0] + height) // 2
        image[max(0, y - height - 6) : y + 8, max(0, x - 8) : x + width + 8] = WHITE
        draw_text(image, tile.note, (x, y), scale, BLACK, size[1])
    return image


def _scale_bar(
    area: np.ndarray, limits: tuple[float, float], unit: str | None, scale: float
) -> None:
    """Draw ``low [colours] high unit`` into the foot of a tile."""
    low, high = (format_number(v, limits[1] - limits[0]) for v in limits)
    high = f'{high} {unit}' if unit else high
    left, height = text_size(low, scale)
    right = text_size(high, scale)[0]
    width, base = area.shape[1], area.shape[0] - 7
    draw_text(area, low, (0, base), scale, BLACK, width)
    draw_text(area, high, (width - right, base), scale, BLACK, width)
    begin, end = left + 8, width - right - 8
    if end - begin >= 8:
        ramp = viridis(np.linspace(0, 1, end - begin, dtype=np.float32)[None])
        area[base - height : base, begin:end] = ramp


def _legend(legend: Legend, total: int, scale: float) -> np.ndarray:
    """Colour patches and names, wrapped to the width of the panel."""
    line = text_size('Ag', scale)[1] + 12
    patch = line - 8
    x, y, places = _GAP, 0, []
    for name, _ in legend:
        width = patch + 6 + text_size(name, scale)[0] + 16
        if x > _GAP and x + width > total:
            x, y = _GAP, y + line
        places.append((x, y))
        x += width
    area = np.full((_GAP + y + line, total, 3), WHITE, np.uint8)
    for (name, colour), (x, y) in zip(legend, places, strict=True):
        top = _GAP + y + 4
        box = area[top : top + patch, x : x + patch]
        if colour is None:
            box[:] = hatch(box, np.ones(box.shape[:2], bool))
        else:
            box[:] = colour
        cv2.rectangle(area, (x, top), (x + patch - 1, top + patch - 1), BLACK, 1)
        draw_text(area, name, (x + patch + 6, top + patch - 3), scale, BLACK, total - x)
    return area
