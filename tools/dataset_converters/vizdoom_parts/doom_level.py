"""Plan view of a Doom level: which places are inside, and what a ray meets.

The map lumps are read straight from the game file (format: "The Unofficial Doom
Specs", Matthew Fell, 1994). The engine can report the same sectors, but copies all
of them with every state, which costs more than rendering the frame.

All lengths are map units (the player is 56 high, its eye 41 above the floor).
"""

from __future__ import annotations

import dataclasses
import functools
import struct
from pathlib import Path

import numpy as np

PLAYER_HEIGHT = 56.0
PLAYER_RADIUS = 16.0
EYE_HEIGHT = 41.0
_NO_SIDE = 0xFFFF

_VERTEX = np.dtype([('x', '<i2'), ('y', '<i2')])
_LINE = np.dtype(
    [(n, '<u2') for n in ('start', 'end', 'flags', 'special', 'tag', 'right', 'left')]
)
_SIDE = np.dtype([('textures', 'V28'), ('sector', '<u2')])
_THING = np.dtype([('x', '<i2'), ('y', '<i2'), ('rest', 'V6')])
_SECTOR = np.dtype([('floor', '<i2'), ('ceiling', '<i2'), ('rest', 'V22')])


def read_lumps(path: str | Path, level: str) -> dict[str, bytes]:
    """Read the lumps of one level from a WAD file.

    Args:
        path: Game file such as `freedoom2.wad`.
        level: Level name, `E1M1` or `MAP01`, in any case.

    Raises:
        ValueError: If the file is no WAD or has no such level.
    """
    entries = _directory(str(path))
    names = [name for _, _, name in entries]
    if level.upper() not in names:
        raise ValueError(f'{path} has no level {level!r}.')
    first = names.index(level.upper()) + 1
    lumps = {}
    with open(path, 'rb') as file:
        for offset, size, name in entries[first : first + 10]:
            file.seek(offset)
            lumps[name] = file.read(size)
    return lumps


def _places(records: np.ndarray) -> np.ndarray:
    """x and y of records, (N, 2)."""
    return np.stack([records['x'], records['y']], axis=1).astype(np.float64)


@functools.lru_cache(maxsize=4)
def _directory(path: str) -> list[tuple[int, int, str]]:
    """Offset, size and name of every lump of a WAD file."""
    with open(path, 'rb') as file:
        magic, count, start = struct.unpack('<4sii', file.read(12))
        if magic not in (b'IWAD', b'PWAD'):
            raise ValueError(
                f'{path} starts with {magic!r}, expected IWAD or PWAD: not a game file.'
            )
        file.seek(start)
        entries = struct.iter_unpack('<ii8s', file.read(16 * count))
        return [
            (offset, size, name.rstrip(b'\0').decode('latin-1').upper())
            for offset, size, name in entries
        ]


@dataclasses.dataclass(frozen=True)
class Level:
    """Geometry of one level.

    Args:
        lines: End points of the lines, x1 y1 x2 y2.
        right, left: Sector on each side of a line, -1 for the void.
        floor, ceiling: Heights of each sector when the level starts.
        things: Places of the objects that the level brings.

    Shape:
        lines: (L, 4); right, left: (L,); floor, ceiling: (S,); things: (T, 2).
    """

    lines: np.ndarray
    right: np.ndarray
    left: np.ndarray
    floor: np.ndarray
    ceiling: np.ndarray
    things: np.ndarray

    @classmethod
    def from_wad(cls, path: str | Path, level: str) -> Level:
        """Read a level from a game file; see `read_lumps`."""
        lumps = read_lumps(path, level)
        vertices = np.frombuffer(lumps['VERTEXES'], _VERTEX)
        lines = np.frombuffer(lumps['LINEDEFS'], _LINE)
        sides = np.frombuffer(lumps['SIDEDEFS'], _SIDE)['sector'].astype(np.int64)
        sectors = np.frombuffer(lumps['SECTORS'], _SECTOR)
        things = np.frombuffer(lumps['THINGS'], _THING)
        points = _places(vertices)

        def sector_of(side: np.ndarray) -> np.ndarray:
            there = side != _NO_SIDE
            return np.where(there, sides[np.where(there, side, 0)], -1)

        return cls(
            lines=np.concatenate(
                [points[lines['start']], points[lines['end']]], axis=1
            ),
            right=sector_of(lines['right']),
            left=sector_of(lines['left']),
            floor=sectors['floor'].astype(np.float64),
            ceiling=sectors['ceiling'].astype(np.float64),
            things=_places(things),
        )

    @functools.cached_property
    def _boxes(self) -> np.ndarray:
        """Bounding boxes of the lines: west, south, east, north (4, L)."""
        ends = self.lines.reshape(-1, 2, 2)
        boxes = np.concatenate([ends.min(axis=1), ends.max(axis=1)], axis=1)
        return np.ascontiguousarray(boxes.T)

    @functools.cached_property
    def _bounds(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Lines between different sectors (4, K), and those sectors."""
        bounds = self.right != self.left
        ends = np.ascontiguousarray(self.lines[bounds].T)
        return ends, self.right[bounds], self.left[bounds]

    def near(self, point: np.ndarray, distance: float) -> np.ndarray:
        """Numbers of the lines whose bounding box comes that close to a point (2,)."""
        west, south, east, north = self._boxes
        return np.flatnonzero(
            (west <= point[0] + distance)
            & (east >= point[0] - distance)
            & (south <= point[1] + distance)
            & (north >= point[1] - distance)
        )

    def sector_at(self, points: np.ndarray) -> np.ndarray:
        """Number of the sector that holds each point, -1 in the void.

        A ray to the east leaves a closed outline an odd number of times exactly when
        it starts inside.

        Shape:
            points: (N, 2); result: (N,).
        """
        ends, right, left = self._bounds
        y = points[:, 1:]
        point, line = np.nonzero((ends[1] > y) != (ends[3] > y))
        x1, y1, x2, y2 = ends[:, line]
        x, y = points[point].T
        east = x1 + (y - y1) * (x2 - x1) / (y2 - y1) > x
        point, line = point[east], line[east]
        crossings = np.zeros((len(points), len(self.floor)), dtype=np.int64)
        for side in (right[line], left[line]):
            there = side >= 0
            np.add.at(crossings, (point[there], side[there]), 1)
        inside = crossings % 2 == 1
        return np.where(inside.any(axis=1), inside.argmax(axis=1), -1)

    def random_points(
        self, rng: np.random.Generator, count: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw places inside the level with room to stand, uniform over its area.

        Shape:
            result: (M, 2) whole map units and (M,) sector numbers, M <= count.
        """
        ends = self.lines.reshape(-1, 2)
        points = np.floor(rng.uniform(ends.min(axis=0), ends.max(axis=0), (count, 2)))
        sector = self.sector_at(points)
        keep = (sector >= 0) & (self.headroom[sector] >= PLAYER_HEIGHT + 8)
        return points[keep], sector[keep]

    @functools.cached_property
    def headroom(self) -> np.ndarray:
        """Height of each sector (S,)."""
        return self.ceiling - self.floor

    def is_clear(self, point: np.ndarray, distance: float) -> bool:
        """Whether no line of any kind comes that close to a point (2,)."""
        x, y = point
        x1, y1, x2, y2 = self.lines[self.near(point, distance)].T
        dx, dy = x2 - x1, y2 - y1
        # Nearest point of each line, as a share of its length.
        along = (x - x1) * dx + (y - y1) * dy
        share = np.clip(along / np.maximum(dx * dx + dy * dy, 1e-9), 0.0, 1.0)
        away_x, away_y = x1 + share * dx - x, y1 + share * dy - y
        nearest = (away_x * away_x + away_y * away_y).min(initial=np.inf)
        return bool(nearest >= distance**2)

    def opaque_lines(self, point: np.ndarray, eye: float, reach: float) -> np.ndarray:
        """End points of the lines that nothing is seen past from a point (2,).

        One-sided lines, closed doors, and steps or beams that reach the eye's height.

        Shape:
            result: (K, 4).
        """
        near = self.near(point, reach)
        right, left = self.right[near], self.left[near]
        bottom = np.maximum(self.floor[right], self.floor[left])
        top = np.minimum(self.ceiling[right], self.ceiling[left])
        hidden = (bottom >= eye) | (top <= eye) | (right < 0) | (left < 0)
        return self.lines[near[hidden]]

    def uneven_lines(
        self, point: np.ndarray, floor: float, least: float, reach: float
    ) -> np.ndarray:
        """End points of the edges of visible floors that are higher or lower.

        Args:
            point: Where the camera is.
            floor: Height of the floor there.
            least: Smallest difference in height that counts.
            reach: Largest distance that counts.

        Shape:
            point: (2,); result: (K, 4).
        """
        near = self.near(point, reach)
        right, left = self.right[near], self.left[near]
        rise = self.floor[np.stack([right, left])] - floor
        seen = (np.abs(rise) > least) & (rise < EYE_HEIGHT)
        return self.lines[near[seen.any(axis=0) & (right >= 0) & (left >= 0)]]


def free_distance(
    point: np.ndarray, degrees: np.ndarray, lines: np.ndarray
) -> np.ndarray:
    """Distance from a point to the first of the lines along each direction.

    Shape:
        point: (2,); degrees: (N,), anticlockwise from east; lines: (K, 4); result:
        (N,), infinite where nothing is met.
    """
    angle = np.deg2rad(degrees)[:, None]
    dx, dy = np.cos(angle), np.sin(angle)
    ax, ay = (lines[:, :2] - point).T
    bx, by = (lines[:, 2:] - lines[:, :2]).T
    with np.errstate(divide='ignore', invalid='ignore'):
        cross = dx * by - dy * bx
        along = (ax * by - ay * bx) / cross
        where = (ax * dy - ay * dx) / cross
    hit = (where >= 0) & (where <= 1) & (along > 0)
    return np.where(hit, along, np.inf).min(axis=1, initial=np.inf)
