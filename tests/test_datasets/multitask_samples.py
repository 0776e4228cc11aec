"""Small multi-task samples, in memory and as files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mmseg_xmodal.datasets.transforms.target_specs import build_specs
from mmseg_xmodal.structures import ModalityLayout

MODALITIES = dict(
    rgb=dict(channels=3, order='rgb'), thermal=dict(channels=1, invalid=0)
)
KINDS = dict(
    gt_depth_map='depth',
    gt_normal_map='normal',
    gt_edge_map='edge',
    gt_landcover='label',
    gt_elevation='value',
)
TARGETS = dict(
    depth=dict(kind='depth', scale=0.01, invalid=0, unit='m'),
    normal=dict(kind='normal', suffix='.npy'),
    edge=dict(kind='edge'),
    landcover=dict(kind='label', classes=7),
    elevation=dict(kind='value', suffix='.npy'),
    det=dict(kind='boxes', ann_file='boxes_{split}.json', classes=('car', 'dog')),
    cls=dict(
        kind='image_labels',
        ann_file='boxes_{split}.json',
        from_boxes='category',
        classes=('car', 'dog'),
    ),
)


def unit_vectors(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    vectors = rng.normal(size=(*size, 3))
    vectors[..., 2] = np.abs(vectors[..., 2]) + 0.1
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return (vectors / length).astype(np.float32)


def make_sample(size: tuple[int, int], seed: int = 0) -> dict[str, Any]:
    """A sample with every kind of truth, as ``LoadTargets`` leaves it."""
    rng = np.random.default_rng(seed)
    layout = ModalityLayout.build(MODALITIES)
    img = rng.integers(1, 200, (*size, layout.stack_channels)).astype(np.float32)
    img[..., -1] = 1
    depth = rng.uniform(1, 9, size).astype(np.float32)
    elevation = rng.uniform(-50, 900, size).astype(np.float32)
    normals = unit_vectors(rng, size)
    for raster in (depth, elevation, normals):
        raster[rng.random(size) < 0.1] = np.nan
    corner = rng.uniform(0, 0.6, (5, 2)) * size[::-1]
    boxes = np.concatenate([corner, corner + rng.uniform(2, 5, (5, 2))], 1)
    limit = np.array([*size[::-1], *size[::-1]])
    return dict(
        img=img,
        img_path='sample.png',
        img_shape=size,
        ori_shape=size,
        modality_layout=layout,
        gt_seg_map=rng.integers(0, 5, size).astype(np.uint8),
        gt_landcover=rng.choice([0, 3, 6, 255], size).astype(np.uint8),
        gt_depth_map=depth,
        gt_elevation=elevation,
        gt_normal_map=normals,
        gt_edge_map=rng.choice([0, 0, 0, 1, 255], size).astype(np.uint8),
        gt_bboxes=np.minimum(boxes, limit).astype(np.float32),
        gt_bboxes_labels=np.arange(5),
        gt_ignore_flags=np.array([False, False, True, False, False]),
        gt_img_label=np.array([1, -1], np.float32),
        seg_fields=['gt_seg_map', *KINDS],
        target_kinds=dict(KINDS),
        target_specs=build_specs(TARGETS),
        task_valid=dict.fromkeys(TARGETS, True),
    )


def sphere(size: tuple[int, int], center: Sequence[float], radius: float) -> np.ndarray:
    """Normals of a sphere in parallel projection, NaN beside it.

    x to the right, y down, z to the viewer; ``center`` is x and y as indices of pixels.
    """
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float64)
    nx, ny = (x - center[0]) / radius, (y - center[1]) / radius
    squared = nx**2 + ny**2
    nz = np.sqrt(np.where(squared < 1, 1 - squared, np.nan))
    normals = np.stack([nx, ny, nz], -1)
    normals[np.isnan(nz)] = np.nan
    return normals.astype(np.float32)


def write_split(
    root: Path,
    split: str = 'train',
    stems: Sequence[str] = ('a', 'b'),
    size: tuple[int, int] = (12, 16),
    annotations: Mapping[str, Sequence[dict]] | None = None,
) -> None:
    """Files for ``MODALITIES`` and ``TARGETS``; boxes are 2 to 6 of both axes."""
    rng = np.random.default_rng(len(stems))
    for folder in ('rgb', 'thermal', 'labels', *TARGETS):
        if folder not in ('det', 'cls'):
            (root / folder / split).mkdir(parents=True, exist_ok=True)
    for stem in stems:
        images = dict(
            rgb=rng.integers(0, 256, (*size, 3), dtype=np.uint8),
            labels=rng.integers(0, 5, size, dtype=np.uint8),
            depth=rng.integers(0, 900, size, dtype=np.uint16),
            edge=rng.choice([0, 255], size).astype(np.uint8),
            landcover=rng.integers(0, 7, size, dtype=np.uint8),
        )
        for folder, image in images.items():
            assert cv2.imwrite(str(root / folder / split / f'{stem}.png'), image)
        np.save(root / 'normal' / split / f'{stem}.npy', unit_vectors(rng, size))
        np.save(root / 'elevation' / split / f'{stem}.npy', rng.normal(size=size))
        np.save(root / 'thermal' / split / f'{stem}.npy', rng.uniform(1, 9, size))
    write_boxes(root / f'boxes_{split}.json', stems, size, annotations)


def write_boxes(
    path: Path,
    stems: Sequence[str],
    size: tuple[int, int] = (12, 16),
    annotations: Mapping[str, Sequence[dict]] | None = None,
) -> None:
    """A COCO file. Default: one car in every image."""
    if annotations is None:
        annotations = {s: [dict(bbox=[2, 2, 4, 4], category_id=3)] for s in stems}
    ids = {stem: i + 1 for i, stem in enumerate(stems)}
    content = dict(
        images=[
            dict(id=i, file_name=f'{stem}.png', height=size[0], width=size[1])
            for stem, i in ids.items()
        ],
        annotations=[
            dict(id=n, image_id=ids[stem], **entry)
            for stem, entries in annotations.items()
            for n, entry in enumerate(entries)
        ],
        categories=[dict(id=3, name='car'), dict(id=7, name='dog')],
    )
    path.write_text(json.dumps(content))
