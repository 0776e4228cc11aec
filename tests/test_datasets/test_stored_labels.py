"""Pseudo-labels from files, through mmseg's own geometry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from mmseg.datasets.transforms import RandomCrop, Resize
from mmseg.registry import TRANSFORMS

from mmseg_xmodal.structures.stored_labels import label_path


def load(folder: Path, root: Path, **results: Any) -> dict:
    cfg = dict(type='mmseg_xmodal.LoadPseudoLabels')
    part = TRANSFORMS.build(cfg | dict(folder=str(folder), img_root=str(root)))
    return part(results)


@pytest.fixture
def stored(tmp_path: Path) -> tuple[Path, Path, np.ndarray]:
    folder, root = tmp_path / 'labels', tmp_path / 'images'
    label = np.random.RandomState(0).randint(0, 19, (12, 16)).astype(np.uint8)
    label[3] = 255
    (folder / 'town').mkdir(parents=True)
    cv2.imwrite(str(folder / 'town' / 'a.png'), label)
    return folder, root, label


def test_labels_move_with_the_image(stored: tuple) -> None:
    folder, root, label = stored
    image = np.repeat(label[..., None], 3, axis=2)
    path = str(root / 'town' / 'a.jpg')
    results = load(folder, root, img=image, img_path=path)
    assert np.array_equal(results['gt_pseudo_labels'], label)
    assert results['seg_fields'] == ['gt_pseudo_labels']
    results['img_shape'] = image.shape[:2]
    np.random.seed(1)  # noqa: NPY002 - what mmseg draws from
    results = RandomCrop(crop_size=(6, 8))(results)
    assert np.array_equal(results['gt_pseudo_labels'], results['img'][..., 0])
    results = Resize(scale=(16, 12), keep_ratio=False)(results)
    assert results['gt_pseudo_labels'].shape == (12, 16)
    assert set(np.unique(results['gt_pseudo_labels'])) <= set(np.unique(label))


def test_bad_input(stored: tuple) -> None:
    folder, root, _ = stored
    image = np.zeros((12, 16, 3), np.uint8)
    with pytest.raises(
        FileNotFoundError, match=r'no pseudo-labels of .*b\.png.* Write'
    ):
        load(folder, root, img=image, img_path=str(root / 'town' / 'b.png'))
    path = str(root / 'town' / 'a.png')
    with pytest.raises(ValueError, match=r'\(12, 16\), expected \(6, 16\).*before any'):
        load(folder, root, img=image[:6], img_path=path)
    with pytest.raises(ValueError, match='does not lie in img_root'):
        label_path(folder, root, str(root.parent / 'other.png'), 'test')
