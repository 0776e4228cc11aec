"""A data set of aligned files with several kinds of truth."""

from __future__ import annotations

import os.path as osp
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from mmengine import fileio
from mmengine.logging import print_log

from mmseg_xmodal.registry import DATASETS

from .coco_boxes import CocoBoxes, labels_of_names, read_json
from .multimodal import LABELS, MultiModalSegDataset
from .transforms.geometry_guard import check_pipeline
from .transforms.target_specs import TargetsCfg, TargetSpec, build_specs

_SHOWN = 20


@DATASETS.register_module()
class MultiTaskDataset(MultiModalSegDataset):
    """Aligned inputs, and any set of targets with the same stems.

    The main label map is ``seg_map_path`` of ``data_prefix``, as in the parent; a data
    set may do without. ``targets`` says what else there is:

    .. code-block:: python

        targets=dict(
            depth=dict(kind='depth', folder='depth', scale=0.001, invalid=0, unit='m'),
            landcover=dict(kind='label', folder='landcover', classes=7),
            det=dict(kind='boxes', ann_file='boxes_{split}.json', classes=('car',)),
            scene=dict(kind='image_labels', ann_file='scenes.json',
                       classes=('day', 'night'), multi_label=False))

    The name of a target is the name of its task. ``LoadTargets`` reads them in the
    pipeline. Files are looked for in ``data_root/folder/split``, an ``ann_file`` in
    ``data_root``.

    Partial labels: a target with ``may_be_missing=True`` may lack files, or images in
    its JSON. An image without boxes in the JSON has no objects; one that the JSON does
    not list is unlabelled.

    ``metainfo['targets']`` says kind, classes and unit of each target, and whether
    the classes of the files count from 1 (``reduce_zero_label``). Stock
    ``ConcatDataset`` compares it: give that ``ignore_keys=['targets']`` to mix data
    sets with different targets, or take :class:`MultiSourceDataset`.

    Args:
        modalities: The config's ``modalities``: the inputs.
        targets: Task name to fields of :class:`TargetSpec`. A named data set knows its
            targets (``TARGETS``): there a list of names chooses among them. Defaults to
            all of these.
        seg_may_be_missing: Whether samples may lack the main label map. Read it with
            ``LoadTargets(seg_loader=dict(type='LoadAnnotations'))`` then.
        split: As for :class:`MultiModalSegDataset`.
        kwargs: As for :class:`MultiModalSegDataset`.

    Raises:
        FileNotFoundError: If files of modalities or targets are missing: all of them in
            one error. Also if no sample at all has a target.
        ValueError: If ``targets`` is wrong, boxes have no area or lie outside of their
            image, or a stock transform of the pipeline would get targets wrong.
    """

    TARGETS: ClassVar[TargetsCfg] = {}

    def __init__(
        self,
        modalities: Any,
        targets: TargetsCfg | Sequence[str] | None = None,
        seg_may_be_missing: bool = False,
        split: str = '',
        **kwargs: Any,
    ) -> None:
        self.target_specs = build_specs(self._chosen(targets))
        self.seg_may_be_missing = seg_may_be_missing
        self._boxes: dict[str, CocoBoxes] = {}
        self._names: dict[str, Mapping[str, Any]] = {}
        self._bad: dict[str, list[str]] = {}
        super().__init__(modalities, split=split, **kwargs)
        # Metrics and panels name classes and units by it.
        self._metainfo['targets'] = {
            name: dict(kind=spec.kind, classes=spec.classes, unit=spec.unit)
            | (dict(reduce_zero_label=True) if spec.reduce_zero_label else {})
            for name, spec in self.target_specs.items()
        }
        check_pipeline(self.pipeline, self.target_specs, type(self).__name__)

    def _chosen(self, targets: TargetsCfg | Sequence[str] | None) -> TargetsCfg:
        if isinstance(targets, Mapping):
            return targets
        names = list(self.TARGETS) if targets is None else list(targets)
        unknown = [name for name in names if name not in self.TARGETS]
        if unknown or isinstance(targets, str):
            raise ValueError(
                f'{type(self).__name__}: targets is {targets!r}, expected a list of '
                f'names from {list(self.TARGETS)}, or a dict from name to '
                "dict(kind=..., ...) such as dict(depth=dict(kind='depth'))."
            )
        return {name: self.TARGETS[name] for name in names}

    def _further_prefixes(self, split: str) -> dict[str, str]:
        paths = {}
        for name, spec in self.target_specs.items():
            if spec.dense:
                paths[_key(name)] = osp.join(spec.folder, split).rstrip('/')
                self.suffixes[_key(name)] = spec.suffix
            else:
                paths[_key(name)] = str(spec.ann_file).replace('{split}', split)
        return paths

    def _target(self, key: str) -> TargetSpec | None:
        """The target that a key of ``data_prefix`` stands for, None for the others."""
        return {_key(n): spec for n, spec in self.target_specs.items()}.get(key)

    def _is_listed(self, key: str) -> bool:
        """Whether a JSON lists the samples, in place of files."""
        spec = self._target(key)
        return spec is not None and not spec.dense

    def load_data_list(self) -> list[dict]:
        """Pair the files of all modalities and targets.

        Returns:
            As the parent, with ``targets``: task name to a path, to boxes, or to an
            image label; None where the sample is not labelled for the task.

        Raises:
            FileNotFoundError: See the class.
            ValueError: See the class.
        """
        infos = super().load_data_list()
        for name, lines in self._bad.items():
            self._report_bad(self.target_specs[name], lines)
        self._boxes, self._names, self._bad = {}, {}, {}
        return infos

    def _stems(self, key: str) -> set[str]:
        if not self._is_listed(key):
            return super()._stems(key)
        spec = self._target(key)
        assert spec is not None
        path = self.data_prefix[key]
        if not fileio.isfile(path, backend_args=self.backend_args):
            return set()
        content = read_json(path, spec.name, self.backend_args)
        if spec.kind == 'boxes' or spec.from_boxes is not None:
            suffix = self.suffixes[self._main]
            boxes = self._boxes[key] = CocoBoxes(content, spec, path, suffix)
            return boxes.stems
        if not isinstance(content, Mapping):
            raise ValueError(
                f'{key}: {path!r} holds a {type(content).__name__}, expected a dict '
                'from stem to names; for a COCO file set from_boxes.'
            )
        self._names[key] = content
        return set(content)

    def _wanted_stems(self, found: Mapping[str, set[str]]) -> list[str]:
        # A JSON may list more images than there are files here.
        files = {key: s for key, s in found.items() if not self._is_listed(key)}
        return super()._wanted_stems(files)

    def _is_optional(self, key: str) -> bool:
        spec = self._target(key)
        if spec is not None:
            return spec.may_be_missing
        return self.seg_may_be_missing if key == LABELS else super()._is_optional(key)

    def _folder_line(self, key: str, stems: set[str]) -> str:
        if not self._is_listed(key):
            return super()._folder_line(key, stems)
        path = self.data_prefix[key]
        exists = fileio.isfile(path, backend_args=self.backend_args)
        note = '' if exists else ' (this file does not exist)'
        return f'  {key}: {len(stems)} images in {path}{note}'

    def _remedy(self) -> str:
        return (
            f'{super()._remedy()} The same for targets: targets[name]'
            "['may_be_missing']=True, and for the labels seg_may_be_missing=True. "
            'What no sample has is not partial: leave the target out.'
        )

    def _path(self, key: str, stem: str) -> str:
        if self._is_listed(key):
            return f'{self.data_prefix[key]}: {stem}'
        return super()._path(key, stem)

    def _data_info(self, stem: str, found: Mapping[str, set[str]]) -> dict:
        info = super()._data_info(stem, found)
        if LABELS in info and stem not in found[LABELS]:
            del info[LABELS]
        info['targets'] = {
            name: self._source(_key(name), stem) if stem in found[_key(name)] else None
            for name in self.target_specs
        }
        return info

    def _source(self, key: str, stem: str) -> Any:
        """What the pipeline gets for one target of one sample."""
        spec = self._target(key)
        assert spec is not None
        if spec.dense:
            return self._path(key, stem)
        if spec.kind == 'boxes':
            bad = self._bad.setdefault(spec.name, [])
            return self._boxes[key].boxes(stem, bad)
        if spec.from_boxes is not None:
            return self._boxes[key].present(stem)
        names = self._names[key][stem]
        return labels_of_names(names, spec, self._path(key, stem))

    def _report_bad(self, spec: TargetSpec, lines: Sequence[str]) -> None:
        if not lines:
            return
        head = (
            f'targets[{spec.name!r}]: {len(lines)} boxes of '
            f'{self.data_prefix[_key(spec.name)]!r} have no area or lie outside of '
            'their image'
        )
        if spec.bad_boxes == 'drop':
            message = f'{head}: left out, the first of them {lines[0]}.'
            print_log(message, logger='current', level=30)
            return
        shown = [f'  {line}' for line in lines[:_SHOWN]]
        remedy = (
            'Correct the file, or leave such boxes out by '
            f"targets[{spec.name!r}]['bad_boxes']='drop'."
        )
        raise ValueError('\n'.join([f'{head}, first {len(shown)}:', *shown, remedy]))

    def get_data_info(self, idx: int) -> dict:
        """As the parent, with the specifications of the targets for ``LoadTargets``."""
        info = super().get_data_info(idx)
        info['target_specs'] = self.target_specs
        return info


def _key(name: str) -> str:
    """Key of a target in ``data_prefix``; a modality may have the same name."""
    return f'targets[{name}]'
