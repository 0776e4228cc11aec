"""Pack a sample for the model."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.structures import InstanceData, LabelData, PixelData
from mmseg.datasets.transforms import PackSegInputs
from mmseg.structures import SegDataSample

from mmseg_xmodal.registry import TRANSFORMS

from .geometry_guard import check_geometry
from .labels import check_label_file
from .stack import check_stack
from .target_specs import FLOAT_KINDS, IGNORE, TargetSpec


@TRANSFORMS.register_module()
class PackXModalInputs(PackSegInputs):
    """mmseg's ``PackSegInputs`` for a stack of modalities and further kinds of truth.

    The stock ``meta_keys`` *replaces* the defaults, and without ``flip`` test-time
    augmentation is silently wrong; ``extra_meta_keys`` adds to them.

    Packed besides what mmseg packs (``gt_sem_seg``, ``gt_edge_map``, ``gt_depth_map``):
    ``gt_bboxes`` (+ ``gt_bboxes_labels``) as ``gt_instances``, those flagged in
    ``gt_ignore_flags`` as ``ignored_instances``, ``gt_img_label`` as ``gt_label``,
    ``audio`` as a data field, and the rasters named in ``raster_keys``. Of a
    multi-task sample also every raster of ``target_kinds``, and ``task_valid`` as
    metainfo.

    Args:
        extra_meta_keys: Keys of the sample that go into the metainfo besides mmseg's.
            Their values must be strings, numbers, None or tuples of these: metainfo
            does not move with ``.to()``.
        raster_keys: Further rasters, (H, W) or (H, W, C), packed as ``PixelData`` under
            their own names.

    Shape:
        - inputs: (C, H, W), the stack as it is
        - rasters of ``target_kinds``: (1, H, W), normals (3, H, W); labels int64, edges
          uint8, the others float32
    """

    def __init__(
        self, extra_meta_keys: Sequence[str] = (), raster_keys: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.meta_keys: tuple[str, ...] = (*self.meta_keys, *extra_meta_keys)
        self.extra_meta_keys = tuple(extra_meta_keys)
        self.raster_keys = tuple(raster_keys)

    def transform(self, results: dict) -> dict:
        """Pack one sample.

        Raises:
            ValueError: If the stack does not fit the layout, a label lies outside the
                classes or its file holds more than uint8 does, a label map or target
                has another size than the image, or a stock transform moved the sample
                in a way wrong for its targets.
            TypeError: If a meta value is not a string, number, None or tuple of these.
        """
        where = f'PackXModalInputs ({results.get("img_path")!r})'
        if 'modality_layout' in results:
            results['img'] = check_stack(
                results['img'], results['modality_layout'], where
            )
        # RandomRotate(auto_bound=True) leaves the old size in img_shape.
        results['img_shape'] = results['img'].shape[:2]
        if 'gt_seg_map' in results:
            _check_labels(results)
        for key in self.extra_meta_keys:
            if key in results:
                results[key] = _meta_value(key, results[key])
        check_geometry(results, 'PackXModalInputs')
        packed = super().transform(results)
        self._pack_targets(results, packed['data_samples'])
        self._pack_more(results, packed['data_samples'])
        return packed

    def _pack_targets(self, results: dict, sample: SegDataSample) -> None:
        """Pack what ``LoadTargets`` has read."""
        specs = {spec.key: spec for spec in results.get('target_specs', {}).values()}
        for key, kind in results.get('target_kinds', {}).items():
            raster = results[key]
            _check_target(results, key)
            if kind == 'label':
                _check_target_ids(results, specs.get(key), key)
                raster = raster.astype(np.int64)
            elif kind in FLOAT_KINDS:
                raster = raster.astype(np.float32)
            sample.set_field(_pixel_data(raster), key, dtype=PixelData)
        if 'task_valid' in results:
            valid = {str(k): bool(v) for k, v in results['task_valid'].items()}
            sample.set_metainfo(dict(task_valid=valid))

    def _pack_more(self, results: dict, sample: SegDataSample) -> None:
        for key in self.raster_keys:
            if key in results:
                sample.set_field(_pixel_data(results[key]), key, dtype=PixelData)
        if 'gt_bboxes' in results:
            _pack_boxes(results, sample)
        if 'gt_img_label' in results:
            label = torch.atleast_1d(torch.as_tensor(results['gt_img_label']))
            sample.set_field(LabelData(label=label), 'gt_label', dtype=LabelData)
        if 'audio' in results:
            sample.set_field(torch.as_tensor(results['audio']), 'audio')

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(extra_meta_keys={self.extra_meta_keys}, '
            f'raster_keys={self.raster_keys})'
        )


def _pixel_data(raster: np.ndarray) -> PixelData:
    raster = np.atleast_3d(raster).transpose(2, 0, 1)
    return PixelData(data=torch.from_numpy(np.ascontiguousarray(raster)))


def _pack_boxes(results: dict, sample: SegDataSample) -> None:
    boxes = np.asarray(results['gt_bboxes'], np.float32).reshape(-1, 4)
    ignored = np.zeros(len(boxes), bool)
    if results.get('gt_ignore_flags') is not None:
        ignored = np.asarray(results['gt_ignore_flags'], bool).reshape(-1)
    labels = results.get('gt_bboxes_labels')
    counts = {len(boxes), len(ignored), len(boxes if labels is None else labels)}
    if len(counts) > 1:
        raise ValueError(
            f'{results.get("img_path")!r} has {len(boxes)} gt_bboxes, {len(ignored)} '
            f'gt_ignore_flags and {None if labels is None else len(labels)} '
            'gt_bboxes_labels, expected as many of each. A transform that drops boxes '
            'must drop their labels and flags too, as mmseg_xmodal.XModalRandomCrop '
            'does.'
        )
    for field, chosen in (('gt_instances', ~ignored), ('ignored_instances', ignored)):
        if field == 'ignored_instances' and 'gt_ignore_flags' not in results:
            continue
        instances = InstanceData(bboxes=torch.from_numpy(boxes[chosen]))
        if labels is not None:
            ids = np.asarray(labels, np.int64).reshape(-1)[chosen]
            instances.labels = torch.from_numpy(ids)
        sample.set_field(instances, field, dtype=InstanceData)


def _check_target(results: dict, key: str) -> None:
    """Compare a raster with the size of the image."""
    size, original = results[key].shape[:2], results.get('ori_shape')
    if size != results['img'].shape[:2] and size != original:
        raise ValueError(
            f'{key} of {results.get("img_path")!r} has (height, width) = {size}, the '
            f'image {original}, {results["img"].shape[:2]} after the transforms. '
            'Between LoadTargets and here use the geometry of mmseg_xmodal '
            '(XModalResize, XModalRandomCrop, ...).'
        )


def _check_target_ids(results: dict, spec: TargetSpec | None, key: str) -> None:
    """Compare the ids of a further label map with its classes."""
    if spec is None or spec.num_classes is None:
        return
    labels = results[key]
    outside = (labels >= spec.num_classes) & (labels != IGNORE)
    if outside.any():
        source = results.get('targets', {}).get(spec.name)
        raise ValueError(
            f'{key} of {source!r} holds the ids {np.unique(labels[outside]).tolist()}, '
            f'expected 0 to {spec.num_classes - 1}, or {IGNORE} for ignored. Add to '
            f"targets[{spec.name!r}]['classes'], or correct the file."
        )


def _check_labels(results: dict) -> None:
    """Compare the label map with the classes and with the size of the image."""
    labels, path = results['gt_seg_map'], results.get('seg_map_path')
    check_label_file(path)
    sizes = (results['img'].shape[:2], results.get('ori_shape'))
    if labels.ndim != 2 or labels.shape not in sizes:
        raise ValueError(
            f'The label map {path!r} has the shape {labels.shape}, the image '
            f'{results.get("img_path")!r} has (height, width) = {sizes[1]}, '
            f'{sizes[0]} after the transforms. Expected one label per pixel: write the '
            'labels as a one-channel image of the size of the image.'
        )
    num_classes, ignore = results.get('num_classes'), results.get('ignore_index', 255)
    if num_classes is None:
        return
    outside = ((labels >= num_classes) | (labels < 0)) & (labels != ignore)
    if not outside.any():
        return
    ids, counts = np.unique(labels[outside], return_counts=True)
    found = ', '.join(f'id {i} ({n} pixels)' for i, n in zip(ids, counts, strict=True))
    if 255 in ids:
        found += (
            f' (255 is also what RandomRotate and reduce_zero_label write: '
            f'give them seg_pad_val={ignore}, or set ignore_index=255)'
        )
    raise ValueError(
        f'The label map {path!r} holds ids outside the {num_classes} classes (0 to '
        f'{num_classes - 1}, ignore_index={ignore}): {found}. Add the class to '
        'metainfo.classes (and num_classes of the head), set the pixels to '
        f'{ignore} in the file, or set reduce_zero_label=True where 0 means "no class".'
    )


def _meta_value(key: str, value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, list):
        value = tuple(value)
    if isinstance(value, tuple):
        return tuple(_meta_value(key, v) for v in value)
    if value is None or isinstance(value, str | numbers.Number):
        return value
    raise TypeError(
        f'extra_meta_keys: {key!r} is a {type(value).__name__}, expected a string, a '
        'number, None or a tuple of these (metainfo does not move with .to()). Pack a '
        'raster with raster_keys instead.'
    )
