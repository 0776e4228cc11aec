"""The label maps of any data set, read without its images where that is possible."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import os.path as osp
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from mmcv.transforms import LoadAnnotations
from mmengine.fileio import LocalBackend, get_file_backend

from .transforms.labels import check_label_file
from .transforms.target_specs import IGNORE
from .transforms.targets import read_target

LABEL_KEY = 'gt_seg_map'


class LabelReader:
    """Reads the label maps of a data set, and nothing else where that is possible.

    Args:
        dataset: One of mmengine, or a wrapper (``ConcatDataset``, ``RepeatDataset``).
        key: Key of the label map in the pipeline: ``'gt_seg_map'``, or ``'gt_NAME'`` of
            a further segmentation task.
        classes: Names of the classes of this key. Defaults to those of the data set.

    Raises:
        ValueError: If the data set is empty, has no classes or no labels, or its
            pipeline does not load them.
    """

    def __init__(
        self, dataset: Any, key: str = LABEL_KEY, classes: Sequence[str] | None = None
    ) -> None:
        if hasattr(dataset, 'full_init'):
            dataset.full_init()
        self.dataset, self.key = dataset, key
        self.name = f'{type(dataset).__name__} ({key})'
        self.files: list[str | None] = []
        self._plans: dict[int, list[Any]] = {}
        for leaf, index in self._places():
            info = leaf.get_data_info(index)
            self.files.append(_label_file(info, key))
            if self.files[-1] is not None and id(leaf) not in self._plans:
                self._plans[id(leaf)] = self._plan(leaf, info)
                classes = classes or _classes(leaf, info, key)
        if not self._plans or not classes:
            raise ValueError(
                f'{self.name} has {len(dataset)} samples, {len(self._plans)} parts '
                f'with label files and classes={classes}, expected all three to count. '
                'Correct the data set, or name the classes (metainfo.classes, '
                "targets[...]['classes'], or the argument `classes`)."
            )
        self.classes = tuple(classes)

    def __len__(self) -> int:
        return len(self.dataset)

    def _places(self) -> Iterator[tuple[Any, int]]:
        return (_place(self.dataset, index) for index in range(len(self.dataset)))

    def _plan(self, leaf: Any, info: dict) -> list[Any]:
        """The transforms that a label map needs, tried on one sample."""
        if self.key != LABEL_KEY:
            return [_OneTarget(self.key, leaf.backend_args)]
        transforms = list(leaf.pipeline.transforms)
        parts = [p for t in transforms for p in (t, getattr(t, 'seg_loader', None))]
        alone = [p for p in parts if isinstance(p, LoadAnnotations)]
        if alone and self.key in _run(alone, copy.deepcopy(info)):
            return alone
        results = copy.deepcopy(info)
        for count, transform in enumerate(transforms, 1):
            results = _run([transform], results)
            if self.key in results:
                return transforms[:count]
        raise ValueError(
            f'The pipeline of {type(leaf).__name__} gives no {self.key!r} for '
            f"{info.get('img_path')!r}. Add dict(type='LoadAnnotations') to it."
        )

    @property
    def folder(self) -> str:
        """The folder that all label files lie in."""
        return osp.commonpath([osp.dirname(f) for f in self.files if f is not None])

    def relative_files(self) -> list[str]:
        """Label file of every sample below :attr:`folder`; '' where it has none."""
        folder = self.folder
        return ['' if f is None else osp.relpath(f, folder) for f in self.files]

    def fingerprint(self) -> str:
        """Digest of the label files, the classes and how they are read.

        Size and time of the files are taken from local disks; of files elsewhere only
        the path counts.
        """
        rows: list[Any] = [self.key, self.classes]
        rows += [[_settings(t) for t in plan] for plan in self._plans.values()]
        places = zip(self._places(), self.files, self.relative_files(), strict=True)
        for (leaf, index), path, name in places:
            if path is None:
                rows.append(None)
                continue
            info = leaf.get_data_info(index)
            state = _file_state(path, getattr(leaf, 'backend_args', None))
            label_map = sorted((info.get('label_map') or {}).items())
            zero = bool(info.get('reduce_zero_label'))
            ignore = info.get('ignore_index', IGNORE)
            spec = str(info.get('target_specs', {}).get(_task(self.key)))
            rows.append([name, *state, label_map, zero, ignore, spec])
        text = json.dumps(rows, default=str)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def count(self, index: int) -> tuple[np.ndarray, int]:
        """Pixels of each class in one sample, (C,), and pixels without a class.

        Raises:
            ValueError: If the labels hold an id that is no class, or ids beyond uint8.
        """
        path, number = self.files[index], len(self.classes)
        if path is None:
            return np.zeros(number, np.int64), 0
        if self.key == LABEL_KEY:
            check_label_file(path)
        leaf, place = _place(self.dataset, index)
        info = leaf.get_data_info(place)
        ignore = info.get('ignore_index', IGNORE) if self.key == LABEL_KEY else IGNORE
        labels = np.asarray(_run(self._plans[id(leaf)], info)[self.key])
        ignored = labels == ignore
        kept = labels[~ignored].astype(np.int64)
        outside = kept[(kept < 0) | (kept >= number)]
        if outside.size:
            raise ValueError(
                f'The labels {path!r} hold the ids {np.unique(outside).tolist()}, '
                f'expected 0 to {number - 1} or {ignore} (ignored). Correct the files, '
                'metainfo.classes or reduce_zero_label.'
            )
        return np.bincount(kept, minlength=number), int(ignored.sum())


class _OneTarget:
    """Reads one label map of a multi-task data set, without the image.

    Args:
        key: Key of the label map.
        backend_args: mmengine file backend.
    """

    def __init__(self, key: str, backend_args: dict | None) -> None:
        self.key, self.backend_args = key, backend_args

    def __call__(self, results: dict) -> dict:
        spec = results['target_specs'][_task(self.key)]
        path = results['targets'][_task(self.key)]
        results[self.key] = read_target(path, spec, self.backend_args)
        return results


def _task(key: str) -> str:
    return key.removeprefix('gt_')


def _label_file(info: dict, key: str) -> str | None:
    """Path of the label file of a sample, None where it has none."""
    if key == LABEL_KEY:
        return info.get('seg_map_path')
    spec = info.get('target_specs', {}).get(_task(key))
    if spec is None or spec.kind != 'label':
        tasks = [
            n for n, s in info.get('target_specs', {}).items() if s.kind == 'label'
        ]
        raise ValueError(
            f'The sample {info.get("img_path")!r} has no label map {key!r}, expected '
            f'{LABEL_KEY!r} or one of {[f"gt_{name}" for name in tasks]}. Change `key`.'
        )
    return info['targets'].get(_task(key))


def _classes(leaf: Any, info: dict, key: str) -> Sequence[str] | None:
    if key == LABEL_KEY:
        return leaf.metainfo.get('classes')
    return info['target_specs'][_task(key)].class_names or None


def _place(dataset: Any, index: int) -> tuple[Any, int]:
    """The data set inside of wrappers that holds a sample, and the position there."""
    while not hasattr(dataset, 'pipeline'):
        if hasattr(dataset, 'datasets'):
            part, index = dataset._get_ori_dataset_idx(index)
            dataset = dataset.datasets[part]
            continue
        if not hasattr(dataset, 'dataset'):
            raise ValueError(
                f'{type(dataset).__name__} has no pipeline and wraps no data set that '
                'has one. Count the data sets inside of it.'
            )
        if hasattr(dataset, '_get_ori_dataset_idx'):
            index = dataset._get_ori_dataset_idx(index)
        dataset = dataset.dataset
    return dataset, index


def _run(transforms: Sequence[Any], results: dict) -> dict:
    for transform in transforms:
        results = transform(results)
        if results is None:
            raise ValueError(
                f'{type(transform).__name__} dropped a sample before its labels were '
                'read. Count with a pipeline that keeps every sample.'
            )
    return results


def _settings(transform: Any) -> list[Any]:
    """What a loading transform was told; values that it sets itself stay out."""
    told = {
        name: value
        for name, value in sorted(vars(transform).items())
        # mmseg's LoadAnnotations copies it from the first sample that it sees.
        if name != 'reduce_zero_label'
        and isinstance(value, bool | int | float | str | None)
    }
    return [type(transform).__name__, copy.copy(told)]


def _file_state(path: str, backend_args: dict | None) -> list[int]:
    if not isinstance(get_file_backend(path, backend_args=backend_args), LocalBackend):
        return []
    state = os.stat(path)
    return [state.st_size, state.st_mtime_ns]
