"""Small labelled data sets on disk: for statistics, samplers and named data sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from mmseg_xmodal.registry import DATASETS

SIZE = (4, 10)
# mmengine collects garbage for each data set that it serialises, for tenths of seconds.
QUICK = dict(serialize_data=False)
MODALITIES = dict(rgb=dict(channels=3, order='rgb'))
PIPELINE = [
    dict(type='mmseg_xmodal.LoadModalities'),
    dict(type='LoadAnnotations'),
    dict(type='mmseg_xmodal.PackXModalInputs'),
]


def label_map(pixels: dict[int, int]) -> np.ndarray:
    """A map with so many pixels of each id, 255 elsewhere."""
    flat = np.full(SIZE[0] * SIZE[1], 255, np.uint8)
    start = 0
    for index, count in pixels.items():
        flat[start : start + count] = index
        start += count
    assert start <= flat.size
    return flat.reshape(SIZE)


def write_labelled(
    root: Path, samples: Sequence[dict[int, int] | np.ndarray], folder: str = 'labels'
) -> None:
    """Write ``rgb/NNN.png`` and ``labels/NNN.png`` for every sample."""
    for number, sample in enumerate(samples):
        labels = sample if isinstance(sample, np.ndarray) else label_map(sample)
        image = np.full((*labels.shape, 3), 10 + number, np.uint8)
        for part, array in (('rgb', image), (folder, labels)):
            (root / part).mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(root / part / f'{number:03}.png'), array)


def config(root: Path, classes: Sequence[str] = 'abc', **kwargs: Any) -> dict:
    cfg = dict(
        type='mmseg_xmodal.MultiModalSegDataset',
        data_root=str(root),
        modalities=MODALITIES,
        metainfo=dict(classes=tuple(classes)),
        data_prefix=dict(seg_map_path='labels'),
        pipeline=PIPELINE,
        **QUICK,
    )
    return cfg | kwargs


def build(root: Path, classes: Sequence[str] = 'abc', **kwargs: Any) -> Any:
    return DATASETS.build(config(root, classes, **kwargs))


def build_named(name: str, root: Path, **kwargs: Any) -> Any:
    """A named multi-task data set of RGB images."""
    pipeline = [*PIPELINE[:2], dict(type='mmseg_xmodal.LoadTargets')]
    cfg = dict(type=f'mmseg_xmodal.{name}', data_root=str(root), modalities=MODALITIES)
    return DATASETS.build(cfg | dict(pipeline=pipeline) | QUICK | kwargs)


def write_image(path: Path, array: Any) -> None:
    """Write an image as stored: ids, or RGB."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array)).save(path)
