"""Small RGB + depth data sets that the tests make for themselves."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

CLASSES = ('far', 'near', 'red', 'hole')


def make_rgbd(
    root: str | Path, n: int = 8, size: tuple[int, int] = (64, 96), seed: int = 0
) -> None:
    """Write an RGB-D data set whose classes need both modalities.

    ``far`` and ``near`` differ in depth only, ``red`` in colour only, and ``hole`` is
    where depth has no measurement (stored 0).

    Args:
        root: Folder that receives ``rgb``, ``depth`` and ``labels``, each with
            ``train`` and ``val``.
        n: Images per split.
        size: Height and width in pixels.
        seed: Seed of all draws.
    """
    rng = np.random.default_rng(seed)
    for split in ('train', 'val'):
        for folder in ('rgb', 'depth', 'labels'):
            (Path(root) / folder / split).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            rgb, depth, label = _sample(rng, size)
            for folder, image in (('rgb', rgb), ('depth', depth), ('labels', label)):
                cv2.imwrite(str(Path(root) / folder / split / f'{i:03d}.png'), image)


def _sample(
    rng: np.random.Generator, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    height, width = size
    label = np.zeros(size, np.uint8)
    depth = np.full(size, 200, np.uint8)
    bgr = rng.integers(90, 130, (height, width, 3), dtype=np.uint8)
    for class_id in (1, 2, 3):
        h, w = rng.integers(size[0] // 4, size[0] // 2, 2)
        y, x = rng.integers(0, height - h), rng.integers(0, width - w)
        box = (slice(y, y + h), slice(x, x + w))
        label[box] = class_id
        depth[box] = {1: 60, 2: 200, 3: 0}[class_id]
        if class_id == 2:
            bgr[box] = (40, 40, 220)
        else:
            bgr[box] = rng.integers(90, 130, (h, w, 3), dtype=np.uint8)
    noise = rng.integers(0, 10, size, dtype=np.uint8)
    depth = np.where(depth > 0, depth + noise, 0).astype(np.uint8)
    return bgr, depth, label
