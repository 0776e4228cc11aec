"""Stock geometry for samples with several kinds of targets.

mmseg's transforms move every map alike. Here depth follows the size of the image,
normals its direction, thin edges survive, and boxes go along. Image labels stay as they
are: they were true of the whole image.

Where a transform is right for all targets of a data set, the stock one does too;
``PackXModalInputs`` and ``MultiTaskDataset`` notice where it is not.
"""

from __future__ import annotations

from typing import Any, ClassVar

import mmcv
import numpy as np
from mmcv.transforms import BaseTransform, RandomResize
from mmcv.transforms.utils import cache_randomness
from mmseg.datasets.transforms import RandomCrop, RandomFlip, RandomRotate, Resize

from mmseg_xmodal.registry import TRANSFORMS

from .geometry_fields import (
    HULLS,
    check_share,
    clip_boxes,
    flip_normals,
    rescale_distance,
    resize_map,
    rotate_boxes,
    rotate_map,
    rotation,
)
from .geometry_guard import check_aligned, check_geometry, mark_geometry
from .target_specs import IGNORE, dense_keys, kind_of


class _TargetGeometry(BaseTransform):
    """Checks a sample before a move, and notes afterwards that its targets fit."""

    def transform(self, results: dict) -> dict:
        """Move image and targets of one sample.

        Raises:
            ValueError: If a stock transform moved the sample before in a way that is
                wrong for its targets, or a map has another size than the image.
        """
        who = type(self).__name__
        check_geometry(results, who)
        check_aligned(results, who)
        results = self._move(results)
        mark_geometry(results)
        return results

    def _move(self, results: dict) -> dict:
        return super().transform(results)


@TRANSFORMS.register_module()
class XModalResize(_TargetGeometry, Resize):
    """mmseg's ``Resize`` for all kinds of targets.

    Labels, depth, normals and values: nearest. Depth is divided by the scale (the
    geometric mean of both directions). Edges: any edge among the pixels that become
    one makes an edge. Boxes are scaled and cut at the border. Normals keep their
    direction, which is right where the aspect ratio is kept.

    Args:
        args: As for mmseg's ``Resize``.
        rescale_depth: Whether ``gt_depth_map`` follows the size of the image, as if
            the camera had come nearer. Say False where depth is an input as well:
            inputs keep their values.
        kwargs: As for mmseg's ``Resize``.
    """

    def __init__(self, *args: Any, rescale_depth: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rescale_depth = rescale_depth

    def _resize_bboxes(self, results: dict) -> None:
        super()._resize_bboxes(results)
        if results.get('gt_bboxes') is not None:
            results['gt_bboxes'] = results['gt_bboxes'].astype(np.float32)

    def _resize_seg(self, results: dict) -> None:
        for key in dense_keys(results):
            kind = kind_of(results, key)
            size = results['img_shape'][:2]
            resized = resize_map(results[key], size, kind, self.backend)
            if kind == 'depth' and self.rescale_depth:
                resized = rescale_distance(resized, results['scale_factor'])
            results[key] = resized

    def __repr__(self) -> str:
        return f'{super().__repr__()[:-1]}, rescale_depth={self.rescale_depth})'


@TRANSFORMS.register_module()
class XModalRandomResize(RandomResize):
    """mmcv's ``RandomResize`` by :class:`XModalResize`.

    Args:
        args: As for mmcv's ``RandomResize``.
        resize_type: The transform that resizes.
        kwargs: As for mmcv's ``RandomResize``; what it does not know goes to the
            transform that resizes (``keep_ratio``, ``rescale_depth``, ...).
    """

    def __init__(
        self, *args: Any, resize_type: str = 'mmseg_xmodal.XModalResize', **kwargs: Any
    ) -> None:
        super().__init__(*args, resize_type=resize_type, **kwargs)


@TRANSFORMS.register_module()
class XModalRandomFlip(_TargetGeometry, RandomFlip):
    """mmseg's ``RandomFlip`` for all kinds of targets.

    Normals: x changes its sign on a horizontal flip, y on a vertical one. The stock
    ``swap_seg_labels`` (left arm, right arm) is applied to the main label map only.

    Args:
        args: As for mmseg's ``RandomFlip``.
        kwargs: As for mmseg's ``RandomFlip``.
    """

    def _flip(self, results: dict) -> None:
        direction = results['flip_direction']
        results['img'] = mmcv.imflip(results['img'], direction=direction)
        if results.get('gt_bboxes') is not None:
            results['gt_bboxes'] = self._flip_bbox(
                np.asarray(results['gt_bboxes'], np.float32).reshape(-1, 4),
                results['img'].shape[:2],
                direction,
            )
        for key in dense_keys(results):
            if key == 'gt_seg_map':
                results[key] = self._flip_seg_map(results[key], direction).copy()
                results['swap_seg_labels'] = self.swap_seg_labels
                continue
            results[key] = mmcv.imflip(results[key], direction=direction).copy()
            if kind_of(results, key) == 'normal':
                results[key] = flip_normals(results[key], direction)


@TRANSFORMS.register_module()
class XModalRandomCrop(_TargetGeometry, RandomCrop):
    """mmseg's ``RandomCrop`` for all kinds of targets.

    Boxes are moved and cut; a box of which less than ``min_area_share`` is left goes,
    with its label and its ignore flag. Ignored boxes stay as long as anything of them
    is left. A sample without main labels is cropped anywhere, whatever
    ``cat_max_ratio`` says.

    Args:
        args: As for mmseg's ``RandomCrop``.
        min_area_share: Share of the area that a box had before this crop, in [0, 1].
        kwargs: As for mmseg's ``RandomCrop``.

    Raises:
        ValueError: If ``min_area_share`` lies outside [0, 1].
    """

    # mmcv's decorator adds to the list of the parent where a class has none itself.
    _methods_with_randomness: ClassVar[list[str]] = []

    def __init__(self, *args: Any, min_area_share: float = 0.25, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.min_area_share = check_share(min_area_share, type(self).__name__)

    @cache_randomness
    def crop_bbox(self, results: dict) -> tuple:
        """Draw y1, y2, x1, x2 of the crop, in pixels."""
        if self.cat_max_ratio >= 1 or 'gt_seg_map' in results:
            return super().crop_bbox(results)
        (height, width), (h, w) = results['img'].shape[:2], self.crop_size
        y = np.random.randint(0, max(height - h, 0) + 1)  # noqa: NPY002
        x = np.random.randint(0, max(width - w, 0) + 1)  # noqa: NPY002
        return y, y + h, x, x + w

    def _move(self, results: dict) -> dict:
        window = self.crop_bbox(results)
        for key in ('img', *dense_keys(results)):
            results[key] = self.crop(results[key], window)
        results['img_shape'] = size = results['img'].shape[:2]
        if results.get('gt_bboxes') is not None:
            y, _, x, _ = window
            boxes = np.asarray(results['gt_bboxes'], np.float32).reshape(-1, 4)
            results['gt_bboxes'] = boxes - np.asarray((x, y, x, y), np.float32)
            clip_boxes(results, size, self.min_area_share)
        return results

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(crop_size={self.crop_size}, '
            f'cat_max_ratio={self.cat_max_ratio}, min_area_share={self.min_area_share})'
        )


@TRANSFORMS.register_module()
class XModalRandomRotate(_TargetGeometry, RandomRotate):
    """mmseg's ``RandomRotate`` for all kinds of targets.

    Normals turn with the image. Where the picture ends there is no truth: 255 in
    edges, NaN in depth, normals and values, ``seg_pad_val`` in labels. A box becomes
    the box around its rotated self and goes where less than ``min_area_share`` of that
    is left inside of the image.

    Args:
        prob: As for mmseg's ``RandomRotate``.
        degree: As for mmseg's ``RandomRotate``; positive is clockwise.
        pad_val: As for mmseg's ``RandomRotate``.
        seg_pad_val: Label outside of the picture.
        center: As for mmseg's ``RandomRotate``.
        auto_bound: As for mmseg's ``RandomRotate``.
        min_area_share: In [0, 1].
        box_hull: ``'ellipse'``, around the rotated ellipse that fills the box: the best
            guess where the shape is not known; ``'corners'``, around the corners of
            the rotated box: the object never reaches out of it, but it is up to twice
            as large.

    Source of the ellipse: Kalra et al., "Towards Rotation Invariance in Object
    Detection", ICCV 2021 (https://openaccess.thecvf.com/content/ICCV2021/html/
    Kalra_Towards_Rotation_Invariance_in_Object_Detection_ICCV_2021_paper.html). Clean
    room, nothing copied.

    Raises:
        ValueError: If ``min_area_share`` or ``box_hull`` is another one.
    """

    def __init__(
        self,
        prob: float,
        degree: float | tuple[float, float],
        pad_val: float = 0,
        seg_pad_val: float = IGNORE,
        center: tuple[float, float] | None = None,
        auto_bound: bool = False,
        min_area_share: float = 0.25,
        box_hull: str = 'ellipse',
    ) -> None:
        super().__init__(prob, degree, pad_val, seg_pad_val, center, auto_bound)
        self.pad_val = pad_val
        self.min_area_share = check_share(min_area_share, type(self).__name__)
        if box_hull not in HULLS:
            raise ValueError(
                f'{type(self).__name__}: box_hull is {box_hull!r}, expected one of '
                f'{HULLS}.'
            )
        self.box_hull = box_hull

    def _move(self, results: dict) -> dict:
        rotate, degree = self.generate_degree()
        if not rotate:
            return results
        matrix, size = rotation(
            results['img'].shape[:2], degree, self.center, self.auto_bound
        )
        results['img'] = mmcv.imrotate(
            results['img'],
            angle=degree,
            border_value=self.pad_val,
            center=self.center,
            auto_bound=self.auto_bound,
        )
        for key in dense_keys(results):
            results[key] = rotate_map(
                results[key], matrix, size, kind_of(results, key), self.seg_pad_val
            )
        results['img_shape'] = results['img'].shape[:2]
        if results.get('gt_bboxes') is not None:
            boxes = np.asarray(results['gt_bboxes'], np.float32).reshape(-1, 4)
            results['gt_bboxes'] = rotate_boxes(boxes, matrix, self.box_hull)
            clip_boxes(results, size, self.min_area_share)
        return results

    def __repr__(self) -> str:
        return (
            f'{super().__repr__()[:-1]}, min_area_share={self.min_area_share}, '
            f'box_hull={self.box_hull!r})'
        )
