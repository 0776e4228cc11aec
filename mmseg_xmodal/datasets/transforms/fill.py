"""Put plausible values where a modality has none."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from mmcv.transforms import BaseTransform

from mmseg_xmodal.registry import TRANSFORMS
from mmseg_xmodal.structures import ModalityLayout

from .stack import (
    ModalitiesCfg,
    check_stack,
    layout_of,
    read_values,
    to_dtype,
    valid_mask,
)

_THRESHOLD = 0.5
_STRETCH = 65535.0


@TRANSFORMS.register_module()
class FillInvalid(BaseTransform):
    """Fill invalid pixels from the valid ones and mark them valid.

    Best placed right after the loader. A modality without any valid pixel stays
    missing. Methods:

    - ``'nearest'``: the value of the nearest valid pixel (Euclidean distance, as
      OpenCV approximates it);
    - ``'max'``: the largest valid value of each channel, such as "far away" in depth;
    - ``'telea'``, ``'ns'``: OpenCV inpainting (Telea 2004; Navier-Stokes, Bertalmio et
      al. 2001), each channel by itself, within its valid range.

    Args:
        names: Modalities to fill; each needs a validity channel.
        method: One of the above.
        max_distance: Fill only pixels that are at most this far, in pixels, from a
            valid one; the others stay invalid. Defaults to filling all.
        radius: Neighbourhood of inpainting in pixels.
        modalities: The config's ``modalities``. Defaults to that of the loader.

    Raises:
        ValueError: If ``method`` or a modality is not known, or a modality has no
            validity channel.
    """

    def __init__(
        self,
        names: Sequence[str],
        method: str = 'nearest',
        max_distance: float | None = None,
        radius: float = 3.0,
        modalities: ModalitiesCfg | None = None,
    ) -> None:
        self._methods: dict[str, Callable] = dict(
            nearest=_nearest, max=_largest, telea=self._inpaint, ns=self._inpaint
        )
        if method not in self._methods:
            raise ValueError(
                f'FillInvalid: method is {method!r}, expected one of '
                f'{sorted(self._methods)}. Change it in the pipeline.'
            )
        self.names = (names,) if isinstance(names, str) else tuple(names)
        self.method = method
        self.max_distance = max_distance
        self.radius = radius
        self.layout = None if modalities is None else ModalityLayout.build(modalities)

    def transform(self, results: dict) -> dict:
        """Fill one sample."""
        layout = layout_of(results, self.layout, self)
        where = f'FillInvalid ({results.get("img_path")!r})'
        img = results['img'] = check_stack(results['img'], layout, where)
        for name in self.names:
            self._fill(img, layout, name)
        return results

    def _fill(self, img: np.ndarray, layout: ModalityLayout, name: str) -> None:
        index = layout.stack_validity_index(name)
        if index is None:
            raise ValueError(
                f'FillInvalid: {name!r} has no validity channel, so nothing in it is '
                f"invalid. Set modalities[{name!r}]['invalid'] to the stored value "
                'that means "no measurement", or take it out of names.'
            )
        hole = valid_mask(img, layout, name) <= _THRESHOLD
        if not hole.any() or hole.all():
            return
        values = read_values(img, layout, name)
        filled = self._methods[self.method](values, hole)
        if self.max_distance is not None:
            hole &= _distance(hole)[0] <= self.max_distance
        img[..., layout.value_slice(name)][hole] = to_dtype(filled[hole], img.dtype)
        img[..., index][hole] = layout.validity_max

    def _inpaint(self, values: np.ndarray, hole: np.ndarray) -> np.ndarray:
        flag = cv2.INPAINT_TELEA if self.method == 'telea' else cv2.INPAINT_NS
        mask = hole.astype(np.uint8)
        filled = np.empty_like(values)
        for c in range(values.shape[-1]):
            channel = values[..., c]
            low, high = channel[~hole].min(), channel[~hole].max()
            # OpenCV's Telea adds terms of the size 1 whatever the unit (seen: depths
            # of -1 m), so the channel is stretched first.
            gain = np.float32(_STRETCH) / (high - low if high > low else np.float32(1))
            stretched = np.ascontiguousarray((channel - low) * gain)
            result = cv2.inpaint(stretched, mask, self.radius, flag) / gain + low
            filled[..., c] = np.clip(result, low, high)
        return filled

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(names={self.names}, method={self.method!r}, '
            f'max_distance={self.max_distance}, radius={self.radius})'
        )


def _distance(hole: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance to the nearest valid pixel, and that pixel's label (from 1)."""
    return cv2.distanceTransformWithLabels(
        hole.astype(np.uint8),
        cv2.DIST_L2,
        cv2.DIST_MASK_5,
        labelType=cv2.DIST_LABEL_PIXEL,
    )


def _nearest(values: np.ndarray, hole: np.ndarray) -> np.ndarray:
    labels = _distance(hole)[1]
    # Label k stands for one valid pixel: turn labels into positions.
    position = np.zeros(labels.max() + 1, np.int64)
    valid = np.flatnonzero(~hole)
    position[labels.ravel()[valid]] = valid
    return values.reshape(-1, values.shape[-1])[position[labels]]


def _largest(values: np.ndarray, hole: np.ndarray) -> np.ndarray:
    return np.broadcast_to(values[~hole].max(axis=0), values.shape)
