"""Text on images, and numbers as text."""

from __future__ import annotations

import math
import unicodedata

import cv2
import numpy as np

_FONT = cv2.FONT_HERSHEY_SIMPLEX
# OpenCV 4 draws ASCII only and every other letter as `??`.
_ASCII_ONLY = int(cv2.__version__.split('.')[0]) < 5
_SPELLED = {'°': 'deg ', 'µ': 'u', 'μ': 'u', '·': '*', '–': '-', '−': '-', 'ß': 'ss'}


def to_ascii(text: str) -> str:
    """Spell units and accented letters in ASCII; letters without a spelling get `?`."""
    text = ''.join(_SPELLED.get(letter, letter) for letter in text)
    plain = unicodedata.normalize('NFKD', text)
    plain = ''.join(letter for letter in plain if not unicodedata.combining(letter))
    return plain.encode('ascii', 'replace').decode()


def text_size(text: str, scale: float) -> tuple[int, int]:
    """Width and height above the base line, in pixels."""
    text = to_ascii(text) if _ASCII_ONLY else text
    (width, height), _ = cv2.getTextSize(text, _FONT, scale, 1)
    return width, height


def draw_text(
    image: np.ndarray,
    text: str,
    place: tuple[int, int],
    scale: float,
    colour: tuple[int, int, int],
    max_width: int,
) -> None:
    """Draw one line into the image, cut with an ellipsis where it is too long.

    Args:
        image: Drawn into.
        text: One line.
        place: x and y of the left end of the base line, in pixels.
        scale: Size of the letters; 0.5 is about 11 pixels for a capital.
        colour: RGB.
        max_width: Space in pixels.
    """
    text = to_ascii(text) if _ASCII_ONLY else text
    if text_size(text, scale)[0] > max_width:
        while text and text_size(text + '...', scale)[0] > max_width:
            text = text[:-1]
        text += '...'
    # A view into a larger image is not contiguous: OpenCV would draw into a copy.
    canvas = np.ascontiguousarray(image)
    cv2.putText(canvas, text, place, _FONT, scale, colour, 1, cv2.LINE_AA)
    image[:] = canvas


def format_number(value: float, span: float) -> str:
    """Write a number with the digits that tell ``span`` in about a hundred steps.

    Args:
        value: The number.
        span: Range that the number is an end of.
    """
    span = abs(span) or abs(value) or 1.0
    decimals = 1 - math.floor(math.log10(span))
    if decimals > 4 or abs(value) >= 1e6:
        return f'{value:.3g}'
    text = f'{value:.{max(decimals, 0)}f}'
    return text.lstrip('-') if float(text) == 0 else text
