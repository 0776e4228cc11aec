"""A few small files in the layout of each RGB-X data set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

SIZE = (60, 80)


def _image(path: Path, channels: int, seed: int, high: int = 256) -> None:
    """Random pixels; labels run from 0 to ``high`` - 1."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    shape = SIZE if channels == 1 else (*SIZE, channels)
    assert cv2.imwrite(str(path), rng.integers(0, high, shape).astype(np.uint8))


def _lists(root: Path, stems: list[str], *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text('\n'.join(stems) + '\n')


def indoor(root: Path, labels: str, classes: int, count: int) -> None:
    stems = [str(i) for i in range(count)]
    for i, stem in enumerate(stems):
        _image(root / f'RGB/{stem}.jpg', 3, i)
        _image(root / f'HHA/{stem}.jpg', 3, i + 100)
        # Grey and RGBA depth files exist side by side.
        _image(root / f'Depth/{stem}.png', 4 if i % 2 else 1, i + 200)
        _image(root / f'{labels}/{stem}.png', 1, i, classes + 1)
    _lists(root, stems, 'train.txt', 'test.txt')


def mfnet(root: Path, count: int) -> None:
    stems = [f'{i:05d}D' for i in range(count)]
    for i, stem in enumerate(stems):
        _image(root / f'images/{stem}.png', 4, i)
        _image(root / f'labels/{stem}.png', 1, i, 9)
    _lists(root, stems, 'train.txt', 'val.txt', 'test.txt', 'trainval.txt')


def pst900(root: Path, count: int) -> None:
    for split in ('train', 'test'):
        for i in range(count):
            _image(root / split / f'rgb/{i}.png', 3, i)
            _image(root / split / f'thermal/{i}.png', 1, i)
            _image(root / split / f'labels/{i}.png', 1, i, 5)


def deliver(root: Path, count: int) -> None:
    kinds = dict(img='rgb', hha='depth', event='event', lidar='lidar')
    for split in ('train', 'val'):
        for i in range(count):
            place = f'sun/{split}/MAP_1_point{i}/01'
            for folder, kind in kinds.items():
                _image(root / folder / f'{place}_{kind}_front.png', 4, i)
            _image(root / 'semantic' / f'{place}_semantic_front.png', 4, i, 26)


def mcubes(root: Path, count: int) -> None:
    stems = [f'scene_{i}' for i in range(count)]
    # As wide as the margins that are cut off, and a little more.
    rng = np.random.default_rng(0)
    size = (SIZE[0], 200 + SIZE[1])
    for stem in stems:
        for folder, shape in (
            ('polL_color', (*size, 3)),
            ('NIR_warped', size),
            ('GT', size),
        ):
            (root / folder).mkdir(parents=True, exist_ok=True)
            high = 20 if folder == 'GT' else 256
            image = rng.integers(0, high, shape).astype(np.uint8)
            cv2.imwrite(str(root / folder / f'{stem}.png'), image)
        for kind in ('aolp_sin', 'aolp_cos', 'dolp'):
            (root / f'polL_{kind}').mkdir(parents=True, exist_ok=True)
            np.save(root / f'polL_{kind}' / f'{stem}.npy', rng.random(size))
    _lists(root, stems, 'list_folder/train.txt', 'list_folder/test.txt')


def day2dusk(root: Path, count: int) -> None:
    for folder in ('source/{}/train', 'source/{}/val', 'target/{}/test'):
        for i in range(count):
            _image(root / folder.format('images') / f'{i}.jpg', 3, i)
            _image(root / folder.format('labels') / f'{i}.png', 1, i, 11)


# By the name of the folder that the configs read.
LAYOUTS: dict[str, Callable[[Path, int], None]] = dict(
    NYUDepthv2=lambda root, count: indoor(root, 'Label', 40, count),
    SUNRGBD=lambda root, count: indoor(root, 'labels', 37, count),
    MFNet=mfnet,
    PST900=pst900,
    DELIVER=deliver,
    MCubeS=mcubes,
    camvid_day2dusk=day2dusk,
)
