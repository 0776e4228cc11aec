"""Which tasks pull against each other, as a picture.

Pure functions on numpy arrays. Every image here is RGB, uint8, (H, W, 3).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .colours import Colour
from .text import draw_text, text_size

_CELL = 72
_SCALE = 0.45
# Blue for agreement and vermilion for conflict stay apart for colour-blind readers.
_AGREE = np.array([0, 90, 181], float)
_CONFLICT = np.array([213, 62, 0], float)
_BLACK: Colour = (20, 20, 20)
_WHITE: Colour = (255, 255, 255)


def conflict_matrix(
    tasks: Sequence[str], cosines: np.ndarray, norms: np.ndarray, title: str = ''
) -> np.ndarray:
    """Draw the cosines between the gradients of the tasks, and the gradients' norms.

    Blue cells agree (cosine 1), vermilion ones conflict (-1), white ones are
    perpendicular; grey is what is no number. A last column holds the norms.

    Args:
        tasks: Names of rows and columns.
        cosines: In [-1, 1].
        norms: Lengths of the gradients.
        title: Text above.

    Shape:
        - cosines: (T, T)
        - norms: (T,)
        - output: (H, W, 3), uint8, RGB
    """
    count = len(tasks)
    widths = [text_size(name, _SCALE)[0] for name in tasks]
    left = max([*widths, 40]) + 16
    cell = max(_CELL, *(width + 10 for width in widths))
    line = text_size('Ag', _SCALE)[1] + 12
    top = 2 * line
    image = np.full(
        (top + count * _CELL + 8, left + (count + 1) * cell + 8, 3), 255, np.uint8
    )
    space = image.shape[1] - 16
    draw_text(image, title, (8, line - 4), _SCALE, _BLACK, space)
    for column, name in enumerate([*tasks, '|g|']):
        x = left + column * cell + 4
        draw_text(image, name, (x, top - 6), _SCALE, _BLACK, cell)
    for row, name in enumerate(tasks):
        y = top + row * _CELL
        draw_text(image, name, (8, y + _CELL // 2 + 5), _SCALE, _BLACK, left)
        for column in range(count):
            x = left + column * cell
            value = float(cosines[row, column])
            area = image[y : y + _CELL - 2, x : x + cell - 2]
            area[:] = _colour(value)
            dark = np.isfinite(value) and abs(value) > 0.55
            _centre(image, f'{value:.2f}', (x, y), cell, _WHITE if dark else _BLACK)
        _centre(image, f'{norms[row]:.3g}', (left + count * cell, y), cell, _BLACK)
    return image


def _colour(cosine: float) -> np.ndarray:
    if not np.isfinite(cosine):
        return np.array([160, 160, 160], np.uint8)
    end = _AGREE if cosine > 0 else _CONFLICT
    share = min(abs(cosine), 1.0)
    return np.round(255 + share * (end - 255)).astype(np.uint8)


def _centre(
    image: np.ndarray, text: str, corner: tuple[int, int], cell: int, colour: Colour
) -> None:
    width, height = text_size(text, _SCALE)
    place = (
        corner[0] + max(0, (cell - width) // 2),
        corner[1] + (_CELL + height) // 2,
    )
    draw_text(image, text, place, _SCALE, colour, cell)
