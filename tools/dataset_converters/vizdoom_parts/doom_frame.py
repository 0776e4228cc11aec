"""From a rendered view to the arrays of one sample: image, depth, classes, boxes."""

from __future__ import annotations

import dataclasses
import functools

import cv2
import numpy as np
from doom_calibration import (
    FAR_STEP,
    FOCAL_Y,
    HORIZON,
    INVALID,
    OFFSET_UNITS,
    UNITS_PER_METRE,
    UNITS_PER_STEP,
)
from doom_classes import (
    CEILING,
    CLASSES,
    FLOOR,
    IGNORE,
    LEDGE,
    PIT,
    SKY,
    WALL,
    class_of,
)
from doom_engine import RENDER_HEIGHT, RENDER_WIDTH, View
from doom_level import EYE_HEIGHT

# Labels of the engine that are no object.
_WALL_OR_SKY, _FLAT = 0, 1
# Floors at least this much above or below the camera's feet are ledge or pit: 0.375 m.
# The depth buffer gives heights to about 2 units.
LEDGE_UNITS = 12.0
_MOST_WALL = 0.8
_LEAST_FLOOR = 0.05
_MOST_INVALID = 0.6


@dataclasses.dataclass(frozen=True)
class Box:
    """A visible object.

    Attributes:
        class_id: Its class.
        name: Type name of the engine.
        area: Visible pixels.
        bbox: x, y, width and height around them.
        distance: Along the viewing direction, metres.
    """

    class_id: int
    name: str
    area: int
    bbox: tuple[int, int, int, int]
    distance: float


@dataclasses.dataclass(frozen=True)
class Frame:
    """One sample.

    Attributes:
        bgr: uint8 (H, W, 3).
        depth: uint8 (H, W), steps; 0 where there is no measurement.
        classes: uint8 (H, W), class ids; 255 is ignored.
        boxes: The visible objects.
    """

    bgr: np.ndarray
    depth: np.ndarray
    classes: np.ndarray
    boxes: tuple[Box, ...]

    @functools.cached_property
    def counts(self) -> np.ndarray:
        """Pixels of each class, and of IGNORE at the end (number of classes + 1,)."""
        full = np.bincount(self.classes.reshape(-1), minlength=256)
        return np.append(full[: len(CLASSES)], full[IGNORE])


def reduction(width: int, height: int) -> int:
    """By which whole factor 640x480 is reduced to a size.

    Raises:
        ValueError: If there is none.
    """
    factor = RENDER_WIDTH // max(width, 1)
    if factor * width != RENDER_WIDTH or factor * height != RENDER_HEIGHT:
        raise ValueError(
            f'--size is {width} {height}, expected 640 480 divided by a whole number: '
            '640 480, 320 240, 160 120 or 128 96.'
        )
    return factor


def make_frame(view: View, factor: int) -> Frame:
    """Reduce a view and turn the engine's labels into classes.

    The image is averaged. Depth and labels are sampled: a mean of two depths lies
    where nothing is, and a mean of two labels is a third one.

    Args:
        view: What the engine rendered, camera level.
        factor: Of `reduction`.
    """
    start = factor // 2
    labels = view.labels[start::factor, start::factor]
    steps = view.depth[start::factor, start::factor]
    bgr = view.bgr
    if factor > 1:
        size = (labels.shape[1], labels.shape[0])
        bgr = cv2.resize(bgr, size, interpolation=cv2.INTER_AREA)
    table = np.full(256, IGNORE, dtype=np.uint8)
    table[_WALL_OR_SKY], table[_FLAT] = WALL, FLOOR
    for value, seen in view.objects.items():
        kind = class_of(seen.name, seen.category)
        if kind is not None:
            table[value] = CLASSES.index(kind)
    classes = table[labels]
    flat = labels == _FLAT
    rows = np.arange(start, RENDER_HEIGHT, factor) + 0.5 - HORIZON
    classes[flat] = _flat_classes(rows, steps, view.eye)[flat]
    # The sky has no distance; the engine leaves the far end of the buffer there.
    classes[(labels == _WALL_OR_SKY) & (steps == FAR_STEP)] = SKY
    depth = np.where(steps == FAR_STEP, np.uint8(INVALID), steps)
    return Frame(bgr, depth, classes, _boxes(labels, view))


def _flat_classes(rows: np.ndarray, steps: np.ndarray, eye: float) -> np.ndarray:
    """Classes of floor and ceiling by height.

    The camera is level, so only what is below the eye shows its upper side, and a
    pixel's height below the eye is its distance times the slope of its row.

    Args:
        rows: Distance of each row from the horizon, pixels of the 640x480 frame.
        steps: Depth as the engine gives it.
        eye: Height of the eye above the feet, map units.

    Shape:
        rows: (H,); steps: (H, W); result: (H, W).
    """
    classes = np.full(steps.shape, FLOOR, dtype=np.uint8)
    classes[rows < 0] = CEILING
    below = rows > 0
    # The step at which a row meets the floor of a height, instead of the height of
    # every pixel: the comparisons are then between bytes.
    part, deep, slope = classes[below], steps[below], rows[below] / FOCAL_Y
    highest = _step(np.maximum(eye - LEDGE_UNITS, 0) / slope)
    lowest = _step((eye + LEDGE_UNITS) / slope)
    part[deep < np.ceil(highest).clip(0, FAR_STEP).astype(np.uint8)[:, None]] = LEDGE
    part[deep > np.floor(lowest).clip(0, FAR_STEP).astype(np.uint8)[:, None]] = PIT
    # At the far end of the buffer the height is unknown.
    part[deep == FAR_STEP] = IGNORE
    classes[below] = part
    return classes


def _step(z: np.ndarray) -> np.ndarray:
    """Depth step of a distance in map units."""
    return (z - OFFSET_UNITS) / UNITS_PER_STEP


def _boxes(labels: np.ndarray, view: View) -> tuple[Box, ...]:
    """Boxes around the visible pixels of each object that has a class."""
    flat = labels.reshape(-1)
    pixels = np.flatnonzero(flat > _FLAT)
    if not len(pixels):
        return ()
    pixels = pixels[np.argsort(flat[pixels], kind='stable')]
    values, starts, areas = np.unique(
        flat[pixels], return_index=True, return_counts=True
    )
    rows, columns = np.divmod(pixels, labels.shape[1])
    # Sorted stably, so the rows of an object are still in order.
    edges = np.stack(
        [
            np.minimum.reduceat(columns, starts),
            rows[starts],
            np.maximum.reduceat(columns, starts),
            rows[starts + areas - 1],
        ],
        axis=1,
    )
    boxes = []
    for value, area, (x, y, right, bottom) in zip(
        values.tolist(), areas.tolist(), edges.tolist(), strict=True
    ):
        seen = view.objects.get(value)
        kind = class_of(seen.name, seen.category) if seen else None
        if seen is None or kind is None:
            continue
        bbox = (x, y, right - x + 1, bottom - y + 1)
        metres = view.distance(seen.x, seen.y) / UNITS_PER_METRE
        boxes.append(Box(CLASSES.index(kind), seen.name, area, bbox, metres))
    return tuple(boxes)


def misplaced(view: View, floor: float) -> bool:
    """Whether the camera is not where it was sent: in the void, in the air, stuck.

    Args:
        view: As rendered.
        floor: Height of the floor there by the map, map units.
    """
    return view.position[2] != floor or abs(view.eye - EYE_HEIGHT) > 0.5


def shows_little(frame: Frame) -> str | None:
    """Why a frame is no use as a sample, None when it is."""
    share = frame.counts / frame.classes.size
    if share[WALL] > _MOST_WALL or share[FLOOR : PIT + 1].sum() < _LEAST_FLOOR:
        return 'one wall'
    invalid = frame.depth.size - np.count_nonzero(frame.depth != INVALID)
    if invalid > _MOST_INVALID * frame.depth.size:
        return 'mostly sky'
    return None
