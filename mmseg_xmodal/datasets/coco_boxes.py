"""Boxes and names of objects from JSON files."""

from __future__ import annotations

import json
import os.path as osp
from collections.abc import Mapping
from typing import Any

import numpy as np
from mmengine import fileio

from .transforms.target_specs import TargetSpec


def read_json(path: str, name: str, backend_args: dict[str, Any] | None = None) -> Any:
    """Read a JSON file.

    Args:
        path: The file.
        name: The target, for errors.
        backend_args: mmengine file backend.

    Raises:
        ValueError: If it is no JSON.
    """
    text = fileio.get_text(path, backend_args=backend_args)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f'targets[{name!r}]: {path!r} is no JSON: {error}. Write the file again.'
        ) from error


class CocoBoxes:
    """The annotations of a COCO-style file by image.

    ``images`` need ``id``, ``file_name``, ``width`` and ``height`` (pixels),
    ``annotations`` need ``image_id``, ``category_id`` and ``bbox`` (x, y, width and
    height in pixels, the left and upper edge at whole numbers).

    An image belongs to the sample whose stem is its ``file_name`` without the suffix.
    The file may put folders before it: ``train/007.png`` is sample ``007``, unless
    another image ends so too.

    Args:
        content: What the file holds.
        spec: The target.
        path: The file, for errors.
        suffix: End of the file names, taken off where they end so; else what follows
            the last dot goes.

    Raises:
        ValueError: If parts of the file are missing, or a class is no category of it.
    """

    def __init__(
        self, content: Any, spec: TargetSpec, path: str, suffix: str = '.png'
    ) -> None:
        self.spec, self.path = spec, path
        self._where = f'targets[{spec.name!r}]: {path!r}'
        parts = ('images', 'annotations', 'categories')
        if not isinstance(content, Mapping) or not all(p in content for p in parts):
            raise ValueError(
                f'{self._where} is no COCO file, expected a dict with {list(parts)}. '
                'Convert the boxes, or name another ann_file.'
            )
        self.names = {c['id']: c['name'] for c in content['categories']}
        if spec.kind == 'boxes' or spec.from_boxes == 'category':
            absent = sorted(set(spec.class_names) - set(self.names.values()))
            if absent:
                raise ValueError(
                    f'{self._where} has no categories {absent}, it has '
                    f'{sorted(self.names.values())}. Correct '
                    f"targets[{spec.name!r}]['classes']."
                )
        self._images: dict[str, dict] = {}
        self._by_tail: dict[str, str | None] = {}
        for image in content['images']:
            self._add_image(image, suffix)
        self._annotations: dict[Any, list[dict]] = {}
        for annotation in content['annotations']:
            self._annotations.setdefault(annotation['image_id'], []).append(annotation)

    def _add_image(self, image: dict, suffix: str) -> None:
        lacking = [k for k in ('id', 'file_name', 'width', 'height') if k not in image]
        if lacking:
            raise ValueError(
                f'{self._where} has an image without {lacking}: {image}. Without the '
                'size nobody can tell which boxes lie outside: add it.'
            )
        name = image['file_name']
        stem = name.removesuffix(suffix)
        stem = osp.splitext(name)[0] if stem == name else stem
        self._images[stem] = image
        parts = stem.split('/')
        for start in range(1, len(parts)):
            tail = '/'.join(parts[start:])
            # None where two images share it.
            self._by_tail[tail] = None if tail in self._by_tail else stem

    def _image(self, stem: str) -> dict | None:
        image = self._images.get(stem)
        if image is None:
            image = self._images.get(self._by_tail.get(stem) or '')
        return image

    @property
    def stems(self) -> set[str]:
        """Stems of samples that the file may speak of."""
        tails = {tail for tail, stem in self._by_tail.items() if stem is not None}
        return tails | set(self._images)

    def boxes(self, stem: str, bad: list[str]) -> dict[str, Any]:
        """Boxes of one sample, cut at the border of the image.

        Args:
            stem: The sample.
            bad: Gets a line for each box that was left out because it has no area or
                lies outside of the image.

        Returns:
            ``size`` (height and width in pixels), ``bboxes`` (N, 4) xyxy float32,
            ``labels`` (N,) int64 and ``ignore`` (N,) bool: crowds, difficult ones, and
            those smaller than ``min_area``.
        """
        image = self._image(stem)
        assert image is not None
        width, height = image['width'], image['height']
        rows, labels, ignore = [], [], []
        for annotation in self._annotations.get(image['id'], ()):
            name = self.names.get(annotation['category_id'])
            if name not in self.spec.class_names:
                continue
            x, y, w, h = (float(v) for v in annotation['bbox'])
            left, right = np.clip((x, x + w), 0, width)
            top, bottom = np.clip((y, y + h), 0, height)
            # Not "<= 0": NaN is no area either.
            if not (w > 0 and h > 0 and right > left and bottom > top):
                bad.append(
                    f'{stem}: annotation {annotation.get("id")} ({name}) bbox='
                    f'{annotation["bbox"]} in {width} x {height} (width x height)'
                )
                continue
            rows.append((left, top, right, bottom))
            labels.append(self.spec.class_names.index(name))
            ignore.append(self._ignored(annotation))
        return dict(
            size=(height, width),
            bboxes=np.array(rows, np.float32).reshape(-1, 4),
            labels=np.array(labels, np.int64),
            ignore=np.array(ignore, bool),
        )

    def _ignored(self, annotation: Mapping[str, Any]) -> bool:
        if any(annotation.get(k) for k in ('iscrowd', 'ignore', 'difficult')):
            return True
        return self._area(annotation) < self.spec.min_area

    @staticmethod
    def _area(annotation: Mapping[str, Any]) -> float:
        _, _, width, height = annotation['bbox']
        return float(annotation.get('area', width * height))

    def present(self, stem: str) -> np.ndarray:
        """Which classes an image shows: 1 yes, 0 no, -1 in ignored objects only.

        Shape:
            - returns: (classes,) float32
        """
        image = self._image(stem)
        assert image is not None
        classes, field = self.spec.class_names, self.spec.from_boxes
        label = np.zeros(len(classes), np.float32)
        for annotation in self._annotations.get(image['id'], ()):
            if field == 'category':
                name = self.names.get(annotation['category_id'])
            else:
                name = annotation.get(field)
            if name in classes:
                index = classes.index(name)
                if not self._ignored(annotation):
                    label[index] = 1
                elif label[index] == 0:
                    label[index] = -1
        return label


def labels_of_names(names: Any, spec: TargetSpec, where: str) -> np.ndarray:
    """Image label from the names that a JSON gives for a stem.

    Args:
        names: A name, or a list of them.
        spec: The target.
        where: File and stem, for errors.

    Returns:
        A multi-hot float32 vector, or with ``multi_label=False`` one id as int64.

    Raises:
        ValueError: If a name is no class, or there is not exactly one of a
            single-label target.
    """
    given = [names] if isinstance(names, str) else list(names)
    unknown = [name for name in given if name not in spec.class_names]
    if unknown or (not spec.multi_label and len(given) != 1):
        wanted = 'names' if spec.multi_label else 'one name'
        raise ValueError(
            f'targets[{spec.name!r}]: {where} has {given}, expected {wanted} from '
            f'{list(spec.class_names)}. Correct the file, or add to classes.'
        )
    ids = [spec.class_names.index(name) for name in given]
    if not spec.multi_label:
        return np.array(ids[0], np.int64)
    label = np.zeros(len(spec.class_names), np.float32)
    label[ids] = 1
    return label
