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

from .stack import check_stack


@TRANSFORMS.register_module()
class PackXModalInputs(PackSegInputs):
    """mmseg's ``PackSegInputs`` for a stack of modalities and further kinds of truth.

    The stock ``meta_keys`` *replaces* the defaults, and without ``flip`` test-time
    augmentation is silently wrong; ``extra_meta_keys`` adds to them.

    Packed besides what mmseg packs (``gt_sem_seg``, ``gt_edge_map``, ``gt_depth_map``):
    ``gt_bboxes`` (+ ``gt_bboxes_labels``) as ``gt_instances``, ``gt_img_label`` as
    ``gt_label``, ``audio`` as a data field, and the rasters named in ``raster_keys``.

    Args:
        extra_meta_keys: Keys of the sample that go into the metainfo besides mmseg's.
            Their values must be strings, numbers, None or tuples of these: metainfo
            does not move with ``.to()``.
        raster_keys: Further rasters, (H, W) or (H, W, C), packed as ``PixelData`` under
            their own names.

    Shape:
        - inputs: (C, H, W), the stack as it is
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
                classes, or the label map has another size than the image.
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
        packed = super().transform(results)
        self._pack_more(results, packed['data_samples'])
        return packed

    def _pack_more(self, results: dict, sample: SegDataSample) -> None:
        for key in self.raster_keys:
            if key in results:
                raster = np.atleast_3d(results[key]).transpose(2, 0, 1)
                data = torch.from_numpy(np.ascontiguousarray(raster))
                sample.set_field(PixelData(data=data), key, dtype=PixelData)
        if 'gt_bboxes' in results:
            boxes = np.asarray(results['gt_bboxes'], np.float32).reshape(-1, 4)
            instances = InstanceData(bboxes=torch.from_numpy(boxes))
            if 'gt_bboxes_labels' in results:
                labels = np.asarray(results['gt_bboxes_labels'], np.int64)
                instances.labels = torch.from_numpy(labels)
            sample.set_field(instances, 'gt_instances', dtype=InstanceData)
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


def _check_labels(results: dict) -> None:
    """Compare the label map with the classes and with the size of the image."""
    labels, path = results['gt_seg_map'], results.get('seg_map_path')
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
