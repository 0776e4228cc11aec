"""Thin edges, and which predicted edge pixels belong to which true ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree


def thin_edges(probability: np.ndarray, sigma: float = 1.0) -> np.ndarray:
    """Keep the crest of every predicted edge (non-maximum suppression).

    The map is smoothed by a Gaussian (``sigma``), so that flat tops have a crest. The
    direction across an edge is the one of the strongest downward curvature, from the
    second derivatives of a smoother map (``2 * sigma``). A pixel stays if its smoothed
    value exceeds the one a pixel ahead and is not below the one a pixel behind, both
    interpolated bilinearly.

    Args:
        probability: Of an edge, in [0, 1].
        sigma: Width of the Gaussian in pixels.

    Returns:
        The probabilities of the pixels that stay, 0 elsewhere. Slanted lines may be
        stairs: :func:`without_stairs`.

    Shape:
        - probability, output: (H, W)
    """
    smooth = ndimage.gaussian_filter(probability, sigma, mode='nearest')
    wide = ndimage.gaussian_filter(probability, 2 * sigma, mode='nearest')
    along_y, along_x = np.gradient(wide)
    yy, yx = np.gradient(along_y)
    xx = np.gradient(along_x, axis=1)
    # The eigenvector of the smaller eigenvalue of [[xx, yx], [yx, yy]].
    across = 0.5 * np.arctan2(2 * yx, xx - yy) + np.pi / 2
    y, x = np.indices(probability.shape)
    dy, dx = np.sin(across), np.cos(across)
    ahead, behind = (
        ndimage.map_coordinates(
            smooth, [y + side * dy, x + side * dx], order=1, mode='nearest'
        )
        for side in (1, -1)
    )
    crest = (smooth > ahead) & (smooth >= behind)
    return np.where(crest, probability, 0.0)


def without_stairs(edges: np.ndarray) -> np.ndarray:
    """Take away the corners of stairs, so that lines hold together by diagonals.

    A slanted line has up to twice as many pixels as a stair, each of which would ask
    for a partner. From unlikely to likely, a pixel goes if its neighbours are two that
    touch its sides at a right angle (and diagonal ones), and stay connected without it.

    Args:
        edges: Thin edges; what is not above 0 is none.

    Shape:
        - edges, output: (H, W)
    """
    out = np.pad(edges, 1)
    kept = out > 0
    corner = kept[1:-1, 1:-1] & (kept[:-2, 1:-1] ^ kept[2:, 1:-1])
    places = np.argwhere(corner & (kept[1:-1, :-2] ^ kept[1:-1, 2:])) + 1
    order = np.argsort(out[tuple(places.T)], kind='stable')
    for y, x in places[order].tolist():
        ring = [bool(kept[y + dy, x + dx]) for dy, dx in _RING]
        up, right, down, left = ring[::2]
        if up != down and left != right and _connected(ring):
            kept[y, x] = False
    return np.where(kept, out, 0)[1:-1, 1:-1]


# The eight neighbours clockwise from above: sides at even places, corners at odd ones.
_RING = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))


def _connected(ring: Sequence[bool]) -> bool:
    """Whether the neighbours of a pixel touch each other without it.

    Two sides at a right angle touch by their corners, so a gap is a missing side, or a
    missing corner beside one.
    """
    filled = list(ring)
    for k in (1, 3, 5, 7):
        filled[k] = ring[k] or (ring[k - 1] and ring[(k + 1) % 8])
    return sum(filled[k] and not filled[k - 1] for k in range(8)) == 1


def neighbours(
    pred: np.ndarray, truth: np.ndarray, radius: float
) -> list[Sequence[int]]:
    """Numbers of the true pixels within ``radius`` pixels of each predicted one.

    Shape:
        - pred: (P, 2), truth: (T, 2); whole coordinates
    """
    if not len(pred) or not len(truth):
        return [()] * len(pred)
    # A little more, so that a distance equal to the radius counts.
    return list(cKDTree(truth).query_ball_point(pred, radius + 1e-6))


def greedy_matching(candidates: Sequence[Sequence[int]], count: int) -> np.ndarray:
    """Match one to one, in the order given, as many as possible at every point of it.

    Each predicted pixel in turn is matched if that can be done without leaving an
    earlier one unmatched (an augmenting path). The sets that can be matched form a
    matroid, for which this greedy rule is optimal for every beginning of the order at
    once: among the first k pixels, as many are marked as a maximum matching of these k
    alone has. With pixels from likely to unlikely, one pass serves every threshold.

    Args:
        candidates: The true pixels that each predicted one may be matched with.
        count: Number of true pixels.

    Returns:
        Which predicted pixels are matched.

    Shape:
        - output: (len(candidates),) bool
    """
    holder = [-1] * count
    mate: dict[int, int] = {}
    # True pixels that no path leads on from, now or later.
    dead = bytearray(count)
    matched = np.zeros(len(candidates), bool)
    for new, near in enumerate(candidates):
        for true in near:
            if holder[true] < 0:
                holder[true], mate[new] = new, true
                matched[new] = True
                break
        else:
            matched[new] = _augment(new, candidates, holder, mate, dead)
    return matched


def _augment(
    new: int,
    candidates: Sequence[Sequence[int]],
    holder: list[int],
    mate: dict[int, int],
    dead: bytearray,
) -> bool:
    """Match ``new`` by handing true pixels on, along the shortest path."""
    came_from: dict[int, int] = {}
    queue = [new]
    for pred in queue:
        for true in candidates[pred]:
            if dead[true] or true in came_from:
                continue
            came_from[true] = pred
            if holder[true] >= 0:
                queue.append(holder[true])
                continue
            while True:
                giver = came_from[true]
                left = mate.get(giver, -1)
                holder[true], mate[giver] = giver, true
                if giver == new:
                    return True
                true = left
    # All that was seen is taken by pixels that can reach nothing else: it stays so.
    for true in came_from:
        dead[true] = 1
    return False
