"""From the engine's depth steps to distance, and the camera that belongs to it.

The depth buffer is uint8 and affine in z, the distance along the viewing direction.
With the camera level and the eye at a known height above a flat floor, the image row
fixes z, so the floor calibrates the buffer.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from doom_engine import RENDER_HEIGHT, RENDER_WIDTH, View
from doom_level import EYE_HEIGHT, Level

# Nominal values, to which the data set's config refers. `fit` must confirm them.
UNITS_PER_STEP = 7.165
OFFSET_UNITS = 14.35
# A convention, not a fact of the game: the player is then 1.75 m high.
UNITS_PER_METRE = 32.0
SCALE_M = UNITS_PER_STEP / UNITS_PER_METRE
OFFSET_M = OFFSET_UNITS / UNITS_PER_METRE
# Stored value for "no measurement": sky, beyond the far end, nearer than the near end.
INVALID = 0
FAR_STEP = 255

# Focal lengths in pixels of the 640x480 frame: 90 degrees across, and pixels of the
# game are 1.2 times as high as wide.
FOCAL_X = RENDER_WIDTH / 2
FOCAL_Y = RENDER_HEIGHT * 0.8
HORIZON = RENDER_HEIGHT // 2


@dataclasses.dataclass(frozen=True)
class Fit:
    """A measured calibration: z = units_per_step * step + offset_units."""

    units_per_step: float
    offset_units: float
    largest_error_units: float
    samples: int


def floor_samples(view: View, level: Level, sector: int) -> np.ndarray:
    """Pairs of (z, step) on the floor of the camera's own height.

    A pixel counts when the place it would show is inside a sector of the same floor
    height, and so is everything before it.

    Shape:
        result: (N, 2).
    """
    rows = np.arange(HORIZON + 8, RENDER_HEIGHT, 4)
    z = EYE_HEIGHT * FOCAL_Y / (rows + 0.5 - HORIZON)
    angle = np.deg2rad(view.angle)
    forward = np.array([np.cos(angle), np.sin(angle)])
    right = np.array([np.sin(angle), -np.cos(angle)])
    pairs = []
    for column in range(RENDER_WIDTH // 8, RENDER_WIDTH, RENDER_WIDTH // 4):
        ray = forward + right * ((column + 0.5 - RENDER_WIDTH / 2) / FOCAL_X)
        places = np.array(view.position[:2]) + z[:, None] * ray
        found = level.sector_at(places)
        flat = (found >= 0) & (level.floor[found] == level.floor[sector])
        flat &= view.labels[rows, column] == 1
        # Bottom row first: stop where the flat floor ends for the first time.
        flat = np.logical_and.accumulate(flat[::-1])[::-1]
        pairs.append(np.stack([z[flat], view.depth[rows, column][flat]], axis=1))
    return np.concatenate(pairs)


def fit(samples: np.ndarray) -> Fit:
    """Least-squares line through (z, step) pairs.

    Args:
        samples: What `floor_samples` gave, of several views.

    Shape:
        samples: (N, 2).

    Raises:
        RuntimeError: If there are too few, or the result is not the nominal one.
    """
    if len(samples) < 200:
        raise RuntimeError(
            f'The depth calibration saw {len(samples)} floor pixels, expected at least '
            '200: make more --frames.'
        )
    z, step = samples.T
    keep = np.ones(len(z), dtype=bool)
    for _ in range(5):
        slope, start = np.polyfit(z[keep], step[keep], 1)
        error = np.abs(slope * z + start - step)
        keep = error <= 1.0
    result = Fit(
        units_per_step=float(1 / slope),
        offset_units=float(-start / slope),
        largest_error_units=float(error[keep].max() / slope),
        samples=int(keep.sum()),
    )
    wrong_scale = abs(result.units_per_step / UNITS_PER_STEP - 1) > 0.01
    wrong_offset = abs(result.offset_units - OFFSET_UNITS) > UNITS_PER_STEP / 2
    if wrong_scale or wrong_offset or keep.mean() < 0.9:
        raise RuntimeError(
            f'The depth calibration on the floor gave {result}, {keep.mean():.0%} of '
            f'{len(z)} samples within a step; expected {UNITS_PER_STEP} units a step '
            f'and an offset of {OFFSET_UNITS}. This version of the engine renders '
            'depth in another way: use vizdoom 1.3.'
        )
    return result


def as_json(measured: Fit, width: int, height: int) -> dict:
    """The content of `calibration.json` for frames of width x height."""
    return {
        'conversion': 'z = stored * scale + offset, along the viewing direction',
        'unit': 'm',
        'scale': SCALE_M,
        'offset': OFFSET_M,
        'invalid': INVALID,
        'units_per_metre': UNITS_PER_METRE,
        'range': [1 * SCALE_M + OFFSET_M, (FAR_STEP - 1) * SCALE_M + OFFSET_M],
        'camera': {
            'fx': FOCAL_X * width / RENDER_WIDTH,
            'fy': FOCAL_Y * height / RENDER_HEIGHT,
            'cx': width / 2,
            'cy': height / 2,
            'eye_height': EYE_HEIGHT / UNITS_PER_METRE,
        },
        'measured_on_floor': dataclasses.asdict(measured),
    }
