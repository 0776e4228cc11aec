"""Run stock transforms on some of the modalities."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS as MMSEG_TRANSFORMS

from mmseg_xmodal.registry import TRANSFORMS
from mmseg_xmodal.structures import ModalityLayout

from .stack import (
    ModalitiesCfg,
    check_stack,
    layout_of,
    read_values,
    to_dtype,
    write_values,
)

# What a geometric transform changes besides the image.
_GEOMETRY = (
    'flip',
    'flip_direction',
    'scale',
    'scale_factor',
    'img_shape',
    'gt_seg_map',
)


@TRANSFORMS.register_module()
class OnModalities(BaseTransform):
    """Hand a group of modalities to photometric transforms of mmseg or mmcv.

    On the whole stack such a transform silently drops channels. Here it sees an image
    of the group alone, in the declared storage type (uint8 colour as BGR, rounded and
    clipped; stock ``PhotoMetricDistortion`` gives other colours on float32), and its
    result goes back into the stack. Validity stays as it is, and invalid pixels stay
    out of the values.

    Args:
        names: The modalities of the group, all of one storage type, scale and offset.
        transforms: The transforms, or their configs, run in order.
        modalities: The config's ``modalities``. Defaults to that of the loader.

    Raises:
        ValueError: If ``names`` is empty or has an unknown modality, or the storage
            types in a group differ.
    """

    def __init__(
        self,
        names: Sequence[str],
        transforms: Sequence[dict | Callable],
        modalities: ModalitiesCfg | None = None,
    ) -> None:
        if isinstance(names, str) or not names:
            raise ValueError(
                f"OnModalities: names is {names!r}, expected a list such as ['rgb']."
            )
        self.names = tuple(names)
        self.transforms = [
            MMSEG_TRANSFORMS.build(t) if isinstance(t, Mapping) else t
            for t in transforms
        ]
        self.layout = None if modalities is None else ModalityLayout.build(modalities)

    def transform(self, results: dict) -> dict | None:
        """Transform the group inside the stack.

        Returns:
            The sample, or None if a nested transform returned None.

        Raises:
            ValueError: If a nested transform changes the shape of the image, or is a
                geometric one.
        """
        layout = layout_of(results, self.layout, self)
        where = f'OnModalities ({results.get("img_path")!r})'
        img = check_stack(results['img'], layout, where)
        before = self._gather(img, layout)
        part = {**results, 'img': before}
        for transform in self.transforms:
            out = transform(part)
            if out is None:
                return None
            part = out
            self._check(part, results, before.shape, transform)
        after = part['img'].reshape(before.shape)
        results['img'] = self._scatter(img, after, layout)
        return results

    def _gather(self, img: np.ndarray, layout: ModalityLayout) -> np.ndarray:
        """The group as one contiguous image of its storage type."""
        first = layout[self.names[0]]
        for name in self.names[1:]:
            other = layout[name]
            if _storage(other) != _storage(first):
                raise ValueError(
                    f'OnModalities: {first.name} is stored as (dtype, scale, offset) '
                    f'= {_storage(first)}, {name} as {_storage(other)}; a group needs '
                    f'one storage type. Use one OnModalities for each of {self.names}.'
                )
        parts = [read_values(img, layout, name) for name in self.names]
        group = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)
        if first.scale != 1 or first.offset != 0:
            group = (group - np.float32(first.offset)) / np.float32(first.scale)
        group = to_dtype(group, first.dtype)
        # The nested transforms may write into their image, but not into the stack.
        if np.may_share_memory(group, img):
            return group.copy(order='C')
        return np.ascontiguousarray(group)

    def _scatter(
        self, img: np.ndarray, group: np.ndarray, layout: ModalityLayout
    ) -> np.ndarray:
        modality = layout[self.names[0]]
        if modality.scale != 1 or modality.offset != 0:
            group = group * np.float32(modality.scale) + np.float32(modality.offset)
        start = 0
        for name in self.names:
            stop = start + layout[name].channels
            write_values(img, layout, name, group[..., start:stop])
            start = stop
        return img

    def _check(
        self, part: dict, results: dict, shape: tuple[int, ...], transform: Any
    ) -> None:
        name = type(transform).__name__
        # OpenCV drops the axis of a single channel: the same image.
        got = part['img'].shape if part['img'].ndim == 3 else (*part['img'].shape, 1)
        if got != shape:
            raise ValueError(
                f'OnModalities(names={list(self.names)}): {name} turned the image of '
                f'shape {shape} (height, width, channels) into {got}. It must keep the '
                'shape: put geometric transforms outside of OnModalities, and leave '
                'out those that change the number of channels.'
            )
        moved = [k for k in _GEOMETRY if part.get(k) is not results.get(k)]
        if moved:
            raise ValueError(
                f'OnModalities(names={list(self.names)}): {name} changed {moved}, so '
                'it moves pixels of these modalities only. Put it outside of '
                'OnModalities, where it moves all modalities and the labels together.'
            )

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(names={self.names}, transforms={self.transforms})'
        )


def _storage(modality: Any) -> tuple[str, float, float]:
    return modality.dtype, modality.scale, modality.offset
