"""Metrics of surface normals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmseg_xmodal.registry import METRICS

from .task_metric import TaskMetric, map_pair, percent

# Degrees. Medians are read from a histogram: an image then gives 14 kB, not all pixels.
BIN = 0.05
_BINS = round(180 / BIN)
_WITHIN = (11.25, 22.5, 30.0)


@METRICS.register_module()
class NormalMetric(TaskMetric):
    """Angles between predicted and true surface normals.

    ``mean``, ``median`` and ``rmse`` in degrees over all pixels of the data set, and
    ``within_11.25``, ``within_22.5``, ``within_30``: the share of pixels with a smaller
    angle, in percent. All are exact except the median, which a histogram with bins of
    0.05 degrees gives (with linear interpolation inside the bin).

    Vectors of any length count by their direction. Pixels whose truth is not finite or
    zero do not count; a predicted zero vector, which has no direction, counts as 90
    degrees. A prediction that is not finite makes every result NaN.

    Args:
        kwargs: As for :class:`TaskMetric`; the task is ``'normal'``, the target
            ``'gt_normal_map'``.
    """

    TASK = 'normal'
    TARGET = 'gt_normal_map'

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def measure(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """Sums and the histogram of one image.

        Raises:
            ValueError: If the maps do not have three channels.
        """
        truth, pred = map_pair(sample, self.target, type(self).__name__)
        if truth.shape[0] != 3:
            raise ValueError(
                f'NormalMetric: {self.target!r} of {sample.get("img_path")!r} has the '
                f'shape {truth.shape}, expected (3, H, W). Change target in the '
                'evaluator.'
            )
        counted = np.isfinite(truth).all(0) & truth.any(0)
        angle = angles(truth[:, counted], pred[:, counted])
        finite = bool(np.isfinite(angle).all())
        places = np.minimum(angle / BIN, _BINS - 1) if finite else np.empty(0)
        return dict(
            count=angle.size,
            sum=float(angle.sum()),
            squared=float((angle**2).sum()),
            within=np.array([(angle < limit).sum() for limit in _WITHIN]),
            histogram=np.bincount(places.astype(int), minlength=_BINS).astype('uint32'),
        )

    def summarise(self, results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Means over all pixels."""
        count, total, squared = (
            sum(image[key] for image in results) for key in ('count', 'sum', 'squared')
        )
        within = sum(image['within'] for image in results)
        histogram = sum(image['histogram'].astype(np.int64) for image in results)
        known = count > 0 and np.isfinite(total)
        nan = float('nan')
        values = dict(
            mean=total / count if known else nan,
            median=histogram_median(histogram, BIN) if known else nan,
            rmse=float(np.sqrt(squared / count)) if known else nan,
        )
        for limit, inside in zip(_WITHIN, within, strict=True):
            values[f'within_{limit:g}'] = percent(inside, count) if known else nan
        return values


def angles(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Angles between vectors, in degrees; 90 where one is zero.

    By the arc tangent: the arc cosine loses half of the digits of small angles.

    Shape:
        - a, b: (3, N)
        - output: (N,)
    """
    dot = (a * b).sum(0)
    cross = np.linalg.norm(np.cross(a, b, axis=0), axis=0)
    angle = np.degrees(np.arctan2(cross, dot))
    return np.where((dot == 0) & (cross == 0), 90.0, angle)


def histogram_median(histogram: np.ndarray, width: float) -> float:
    """Median of values that a histogram from 0 counts, linear inside the bin.

    Args:
        histogram: Number of values per bin, at least one in all.
        width: Of a bin.

    Shape:
        - histogram: (bins,)
    """
    below = np.cumsum(histogram)
    half = below[-1] / 2
    place = int(np.searchsorted(below, half))
    before = below[place] - histogram[place]
    return float((place + (half - before) / histogram[place]) * width)
