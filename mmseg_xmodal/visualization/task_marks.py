"""What is drawn into tiles at the size that they are shown in: boxes, lines of text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from .colours import WRONG, Colour, default_palette
from .panels import BLACK, WHITE
from .text import draw_text, text_size

Overlay = Callable[[np.ndarray, float], None]
Line = tuple[str, Colour]

_RIGHT: Colour = (0, 110, 70)
_GREY: Colour = (120, 120, 120)
_LIKELIEST = 3
_PREDICTED = 0.5


def draw_boxes(
    boxes: np.ndarray,
    words: Sequence[tuple[str, int]],
    size: tuple[int, int],
    ignored: np.ndarray | None = None,
) -> Overlay:
    """Boxes with a text and a colour for each class.

    Args:
        boxes: xyxy in pixels of the picture.
        words: Text of each box, and the number of its class.
        size: Height and width that the boxes refer to, in pixels.
        ignored: Boxes that do not count, drawn in grey.

    Shape:
        - boxes: (N, 4); ignored: (M, 4)
    """
    palette = default_palette(max((label for _, label in words), default=0) + 1)

    def draw(image: np.ndarray, scale: float) -> None:
        factor = np.array([image.shape[1] / size[1], image.shape[0] / size[0]] * 2)
        for box in ignored if ignored is not None else ():
            _rectangle(image, box * factor, _GREY)
        colours: list[Colour] = []
        for _, label in words:
            r, g, b = palette[max(label, 0)]
            colours.append((r, g, b))
        # The first ones, the surest, end up on top; all texts above all frames.
        marks = list(zip(boxes * factor, words, colours, strict=True))[::-1]
        for box, _, colour in marks:
            _rectangle(image, box, colour)
        for box, (text, _), colour in marks:
            _tag(image, text, box, scale * 0.85, colour)

    return draw


def draw_lines(lines: Sequence[Line]) -> Overlay:
    """Lines of text, from the top; what does not fit is counted."""

    def draw(image: np.ndarray, scale: float) -> None:
        step = text_size('Ag', scale)[1] + 10
        room = max(1, (image.shape[0] - 8) // step)
        shown = list(lines)
        if len(shown) > room:
            shown = [*shown[: room - 1], (f'and {len(shown) - room + 1} more', _GREY)]
        for i, (text, colour) in enumerate(shown):
            place = (8, 2 + (i + 1) * step)
            draw_text(image, text, place, scale, colour, image.shape[1] - 16)

    return draw


def label_lines(truth: Any, pred: Any, classes: Sequence[str]) -> list[Line]:
    """Image labels in words.

    Args:
        truth: Has ``label``: one class id, or 1, 0, -1 (unknown) per class. None =
            there is none.
        pred: Has ``score`` per class, and ``label``. None = there is none.
        classes: Names of the classes; numbers stand for those that lack.
    """
    label = None if truth is None else _flat(truth.label)
    score = None if pred is None else _flat(pred.score)
    size = max(len(x) for x in (label, score, [0]) if x is not None)
    names = [classes[k] if k < len(classes) else str(k) for k in range(size)]
    chosen = label if label is not None else _flat(pred.label)
    if len(chosen) == 1 and (score is None or len(score) > 1):
        return _single(label, score, classes)
    lines = []
    order = np.argsort(-(score if score is not None else chosen), kind='stable')
    for k in order:
        predicted = score is not None and score[k] >= _PREDICTED
        if not predicted and (label is None or label[k] != 1):
            continue
        text = names[k] if score is None else f'{names[k]} {score[k]:.2f}'
        lines.append(_verdict(text, label, score, int(k)))
    return lines or [('none of the classes', _GREY)]


def _single(
    label: np.ndarray | None, score: np.ndarray | None, classes: Sequence[str]
) -> list[Line]:
    def name(k: int) -> str:
        return classes[k] if k < len(classes) else str(k)

    lines: list[Line] = []
    true = None if label is None else int(label[0])
    if true is not None:
        lines.append((f'truth: {name(true) if true >= 0 else "unknown"}', BLACK))
    if score is not None:
        order = [int(k) for k in np.argsort(-score, kind='stable')[:_LIKELIEST]]
        known = true is not None and true >= 0
        hit = _RIGHT if order[0] == true else WRONG
        first = f'prediction: {name(order[0])} {score[order[0]]:.2f}'
        lines.append((first, hit if known else BLACK))
        lines += [(f'then {name(k)} {score[k]:.2f}', _GREY) for k in order[1:]]
    return lines


def _verdict(
    text: str, label: np.ndarray | None, score: np.ndarray | None, k: int
) -> Line:
    """A class of a multi-label picture and what became of it."""
    if label is None or score is None:
        return text, BLACK
    if label[k] < 0:
        return f'{text}, truth unknown', _GREY
    if label[k] != 1:
        return f'{text}, wrong', WRONG
    if score[k] >= _PREDICTED:
        return f'{text}, right', _RIGHT
    return f'{text}, missed', WRONG


def _rectangle(image: np.ndarray, box: np.ndarray, colour: Colour) -> None:
    """A frame of two pixels inside the box, with a dark rim to be seen on any ground.

    By slices: how thick OpenCV draws a line depends on its version.
    """
    x1, y1, x2, y2 = (int(v) for v in np.round(box))
    for grow, width, ink in ((1, 4, BLACK), (0, 2, colour)):
        left, right = max(x1 - grow, 0), max(x2 + grow, 0)
        top, bottom = max(y1 - grow, 0), max(y2 + grow, 0)
        image[top : top + width, left:right] = ink
        image[max(bottom - width, 0) : bottom, left:right] = ink
        image[top:bottom, left : left + width] = ink
        image[top:bottom, max(right - width, 0) : right] = ink


def _tag(
    image: np.ndarray, text: str, box: np.ndarray, scale: float, colour: Colour
) -> None:
    """A text on a patch of the colour, above the box where there is room."""
    width, height = text_size(text, scale)
    x, y = int(round(box[0])), int(round(box[1]))
    x = max(0, min(x, image.shape[1] - width - 6))
    top = y - height - 7
    if top < 0:
        top = max(0, min(y, image.shape[0] - height - 7))
    image[top : top + height + 6, x : x + width + 6] = colour
    light = sum(colour) > 330
    ink = BLACK if light else WHITE
    room = image.shape[1] - x
    draw_text(image, text, (x + 3, top + height + 2), scale, ink, room)


def _flat(values: Any) -> np.ndarray:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().float().numpy()
    return np.asarray(values, np.float32).reshape(-1)
