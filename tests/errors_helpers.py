"""Files with mistakes, and what loads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mmseg_xmodal.datasets import MultiModalSegDataset
from mmseg_xmodal.datasets.transforms import LoadModalities

RGB = dict(channels=3, order='rgb')


def write(path: Path, array: np.ndarray) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == '.npy':
        np.save(path, array)
    else:
        assert cv2.imwrite(str(path), array)
    return str(path)


def load(modalities: dict, paths: dict[str, str | None], **kwargs: Any) -> dict:
    sample = dict(modality_paths=paths, img_path=paths.get('rgb'))
    return LoadModalities(modalities, **kwargs)(sample)


def label_dataset(
    root: Path, loader: str = 'LoadAnnotations', suffix: str = '.png', **kwargs: Any
) -> MultiModalSegDataset:
    return MultiModalSegDataset(
        modalities=dict(rgb=RGB),
        data_root=str(root),
        data_prefix=dict(rgb='rgb', seg_map_path='labels'),
        suffixes=dict(seg_map=suffix),
        metainfo=dict(classes=('a', 'b', 'c')),
        pipeline=[
            dict(type='mmseg_xmodal.LoadModalities', modalities=dict(rgb=RGB)),
            dict(type=loader),
            dict(type='mmseg_xmodal.PackXModalInputs'),
        ],
        **kwargs,
    )


def label_sample(
    root: Path,
    labels: np.ndarray,
    loader: str = 'LoadAnnotations',
    suffix: str = '.png',
    **kwargs: Any,
) -> dict:
    write(root / 'rgb/a.png', np.zeros((*labels.shape, 3), np.uint8))
    write(root / f'labels/a{suffix}', labels)
    return label_dataset(root, loader, suffix, **kwargs)[0]
