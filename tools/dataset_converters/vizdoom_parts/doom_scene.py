"""Where the camera stands and what is put before it.

A roaming player sees fewer than 0.5 % object pixels. Here each frame gets a place with
a free view, and objects of the classes that the split has seen least of.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from doom_classes import OBJECT_CLASSES, SUMMONED
from doom_engine import summon_distance
from doom_frame import LEDGE_UNITS
from doom_level import EYE_HEIGHT, PLAYER_HEIGHT, PLAYER_RADIUS, Level, free_distance

# The widest angle between the middle of the image and an object, degrees: the field
# of view is 90, so objects at the border are cut in half now and then.
_SPREAD = 42.0
_CAMERA_CLEARANCE = 40.0
_NEAR_OBJECT = 64.0
_FAR_OBJECT = 260.0
# Items are small: further away they cover a few pixels only.
_FAR_ITEM = 130.0
_FEWEST_OBJECTS, _MOST_OBJECTS = 3, 6
# Edges of ledges and pits further away than this hardly show; and how likely a view
# without any is, next to 1 for a view full of them; and how many of the places without
# one near are taken.
_NEAR_EDGE = 240.0
_EVEN_PLACES = 0.3
_EVEN_WEIGHT = 0.1
# Draws for the spot of an object before it is given up.
_DRAWS = 8
# Walls further away than this do not matter for the choice of a direction.
_REACH = 800.0
# Largest difference between the floor under an object and under the camera.
_STEP = 40.0


@dataclasses.dataclass(frozen=True)
class Placement:
    """One object to summon: type name, radius, place and facing (degrees)."""

    name: str
    radius: int
    x: float
    y: float
    facing: int


@dataclasses.dataclass(frozen=True)
class Scene:
    """A camera pose (map units, degrees) and the objects before it."""

    x: float
    y: float
    sector: int
    angle: float
    objects: tuple[Placement, ...]


class SceneSampler:
    """Draws scenes in one level.

    Args:
        level: The level's geometry.
        rng: Source of every draw.
    """

    def __init__(self, level: Level, rng: np.random.Generator) -> None:
        self._level = level
        self._taken = level.things
        self._rng = rng
        self._points: list[tuple[np.ndarray, int]] = []

    def sample(self, shares: np.ndarray) -> Scene:
        """Draw a pose and objects to be summoned before it.

        Args:
            shares: Pixels of each object class so far, relative to what is wanted.

        Raises:
            RuntimeError: If the level has no place to stand.
        """
        point, sector = self._next_point()
        eye = self._level.floor[sector] + EYE_HEIGHT
        lines = self._level.opaque_lines(point, eye, _REACH)
        angle = self._free_angle(point, lines, self._level.floor[sector])
        objects: list[Placement] = []
        for kind in self._kinds(shares):
            placed = self._place(kind, point, sector, angle, lines)
            if placed is not None:
                objects.append(placed)
                self._taken = np.append(self._taken, [[placed.x, placed.y]], axis=0)
        return Scene(float(point[0]), float(point[1]), sector, angle, tuple(objects))

    def _next_point(self) -> tuple[np.ndarray, int]:
        for _ in range(50):
            if not self._points:
                places, sectors = self._level.random_points(self._rng, 256)
                self._points = [
                    (place, int(sector))
                    for place, sector in zip(places, sectors, strict=True)
                ]
            while self._points:
                point, sector = self._points.pop()
                room = _CAMERA_CLEARANCE + PLAYER_RADIUS
                if (
                    self._free_of_objects(point[None], room)[0]
                    and self._level.is_clear(point, _CAMERA_CLEARANCE)
                    and self._is_wanted(point, sector)
                ):
                    return point, sector
        raise RuntimeError(
            'The level has no free place 40 map units from every wall: choose other '
            'levels with --levels.'
        )

    def _is_wanted(self, point: np.ndarray, sector: int) -> bool:
        """Some of the places, and all with a ledge or pit near."""
        if self._rng.random() < _EVEN_PLACES:
            return True
        floor = self._level.floor[sector]
        edges = self._level.uneven_lines(point, floor, LEDGE_UNITS, _NEAR_EDGE / 2)
        return len(edges) > 0

    def _free_of_objects(
        self, points: np.ndarray, distance: float | np.ndarray
    ) -> np.ndarray:
        """Whether no object is that close to each point: (N, 2) to (N,)."""
        dx = self._taken[:, :1] - points[:, 0]
        dy = self._taken[:, 1:] - points[:, 1]
        nearest = (dx * dx + dy * dy).min(axis=0, initial=np.inf)
        return nearest >= np.square(distance)

    def _free_angle(self, point: np.ndarray, lines: np.ndarray, floor: float) -> float:
        """A direction, more often one with a long free view over uneven ground."""
        angles = self._rng.uniform(0, 360, size=12)
        fan = (angles[:, None] + np.array([-30.0, 0.0, 30.0])).reshape(-1)
        free = free_distance(point, fan, lines).reshape(-1, 3)
        weight = np.clip(np.median(free, axis=1), 16.0, 600.0) ** 2
        edges = self._level.uneven_lines(point, floor, LEDGE_UNITS, _NEAR_EDGE)
        edge = free_distance(point, fan, edges).reshape(-1, 3)
        weight *= _EVEN_WEIGHT + (edge < np.minimum(free, _NEAR_EDGE)).mean(axis=1)
        return float(self._rng.choice(angles, p=weight / weight.sum()))

    def _kinds(self, shares: np.ndarray) -> list[str]:
        """Classes to place: the rarest so far, with some chance for the others."""
        count = int(self._rng.integers(_FEWEST_OBJECTS, _MOST_OBJECTS + 1))
        order = np.argsort(shares * self._rng.uniform(0.4, 1.6, size=len(shares)))
        return [OBJECT_CLASSES[i] for i in order[:count]]

    def _place(
        self,
        kind: str,
        camera: np.ndarray,
        sector: int,
        angle: float,
        lines: np.ndarray,
    ) -> Placement | None:
        """A free spot of the floor in view, None when the draws find none."""
        choices = SUMMONED[kind]
        name, radius = choices[int(self._rng.integers(len(choices)))]
        bearings = angle + self._rng.uniform(-_SPREAD, _SPREAD, size=_DRAWS)
        facing = int(self._rng.integers(360))
        free = free_distance(camera, bearings, lines) - radius - 8
        nearest = _NEAR_OBJECT + radius
        furthest = np.minimum(free, _FAR_ITEM if kind == 'item' else _FAR_OBJECT)
        # Uniform up to where the view ends; nothing where it ends too early.
        distance = nearest + self._rng.random(_DRAWS) * (furthest - nearest)
        spots = camera + distance[:, None] * _direction(bearings)
        stands = spots - summon_distance(radius) * _direction(angle)
        room = np.repeat([radius + 28, PLAYER_RADIUS + 32], _DRAWS)
        alone = self._free_of_objects(np.concatenate([spots, stands]), room)
        good = (furthest > nearest) & alone.reshape(2, _DRAWS).all(axis=0)
        for spot, stand in zip(spots[good], stands[good], strict=True):
            if self._fits(spot, stand, sector):
                return Placement(name, radius, float(spot[0]), float(spot[1]), facing)
        return None

    def _fits(self, spot: np.ndarray, stand: np.ndarray, sector: int) -> bool:
        """Whether the ground is good for an object, and for the player to summon it."""
        if not self._level.is_clear(stand, PLAYER_RADIUS + 1):
            return False
        found = self._level.sector_at(np.stack([spot, stand]))
        if (found < 0).any() or (self._level.headroom[found] < PLAYER_HEIGHT).any():
            return False
        # The object appears at the player's height and would hang in the air.
        floor = self._level.floor[found]
        same = abs(floor[0] - self._level.floor[sector]) <= _STEP
        return bool(floor[0] == floor[1] and same)


def _direction(degrees: float | np.ndarray) -> np.ndarray:
    """Unit vectors, x and y in the last axis."""
    angle = np.deg2rad(degrees)
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1)
