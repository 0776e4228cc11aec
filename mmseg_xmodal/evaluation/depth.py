"""Metrics of depth and of other rasters of numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmseg_xmodal.registry import METRICS

from .task_metric import TaskMetric, map_pair, mean_known

_PLAIN = ('rmse', 'mae')
_RATIO = (
    'abs_rel',
    'sq_rel',
    'rmse_log',
    'log10',
    'delta1',
    'delta2',
    'delta3',
)
# A prediction at or below 0 has no logarithm and no ratio. It counts as a millimetre.
_SMALLEST = 1e-3


@METRICS.register_module()
class DepthMapMetric(TaskMetric):
    """Errors of predicted depth, or of another raster of numbers.

    With t the truth and p the prediction of a pixel, in the unit of the truth:

    ============== =================================== =====================
    ``rmse``       root of the mean of (p - t)^2       unit
    ``mae``        mean of abs(p - t)                  unit
    ``abs_rel``    mean of abs(p - t) / t              fraction
    ``sq_rel``     mean of (p - t)^2 / t               unit
    ``rmse_log``   root of the mean of ln(p / t)^2     natural logarithm
    ``log10``      mean of abs(log10(p / t))           decades
    ``delta1..3``  share with max(p / t, t / p) below  percent, as mIoU
                   1.25, 1.25^2, 1.25^3
    ============== =================================== =====================

    All but the first two count only pixels whose truth is above 0, and a prediction
    below 0.001 as 0.001 in logarithms and ratios. Pixels whose truth is not finite do
    not count; a prediction that is not finite makes the errors not finite.

    The default is the protocol of multi-task learning on NYUD-v2: one mean over all
    pixels of the data set. Depth estimation often takes the mean over images.

    Args:
        pooling: ``'pixels'``: means over all pixels of all images. ``'images'``: the
            mean of the results of each image.
        metrics: Which of the above. Defaults to all of them; for values that may be
            negative, choose ``['rmse', 'mae']``.
        min_depth: Pixels whose truth is less do not count, and predictions are raised
            to it. In the unit of the truth; None = no limit.
        max_depth: The same upwards.
        kwargs: As for :class:`TaskMetric`; the task is ``'depth'``, the target
            ``'gt_depth_map'``. Another raster: ``task='elevation',
            target='gt_elevation'``.

    Raises:
        ValueError: If an argument is none of the values listed.
    """

    TASK = 'depth'
    TARGET = 'gt_depth_map'

    def __init__(
        self,
        pooling: str = 'pixels',
        metrics: Sequence[str] | None = None,
        min_depth: float | None = None,
        max_depth: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        known = (*_PLAIN, *_RATIO)
        if pooling not in ('pixels', 'images'):
            raise ValueError(
                f"DepthMapMetric has pooling={pooling!r}, expected 'pixels' or "
                "'images'. Change it in the evaluator."
            )
        self.metrics = known if metrics is None else tuple(metrics)
        unknown = [name for name in self.metrics if name not in known]
        if unknown or not self.metrics or isinstance(metrics, str):
            raise ValueError(
                f'DepthMapMetric has metrics={metrics!r}, expected a list out of '
                f'{list(known)}. Change it in the evaluator.'
            )
        low = -np.inf if min_depth is None else min_depth
        high = np.inf if max_depth is None else max_depth
        if not low < high:
            raise ValueError(
                f'DepthMapMetric has min_depth={min_depth} and max_depth={max_depth}, '
                'expected a range. Change them in the evaluator.'
            )
        self.pooling = pooling
        self.limits = (float(low), float(high))

    def measure(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """Sums over the pixels of one image."""
        truth, pred = map_pair(sample, self.target, type(self).__name__)
        low, high = self.limits
        counted = np.isfinite(truth) & (truth >= low) & (truth <= high)
        return error_sums(truth[counted], np.clip(pred[counted], low, high))

    def summarise(self, results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Means over pixels, or over images."""
        if self.pooling == 'pixels':
            total = {key: sum(sums[key] for sums in results) for key in results[0]}
            values = means(total)
        else:
            images = [means(sums) for sums in results if sums['count']]
            values = {
                name: mean_known([image[name] for image in images])
                for name in self.metrics
            }
        return {name: values[name] for name in self.metrics}


def error_sums(truth: np.ndarray, pred: np.ndarray) -> dict[str, float]:
    """Sums from which :func:`means` makes the metrics.

    Shape:
        - truth, pred: (N,), pixels that count
    """
    error = pred - truth
    sums = dict(
        count=truth.size, rmse=(error**2).sum(), mae=np.abs(error).sum(), positive=0
    )
    positive = truth > 0
    truth, pred, error = truth[positive], pred[positive], error[positive]
    ratio = np.maximum(pred, _SMALLEST) / truth
    log = np.log(ratio)
    sums.update(
        positive=truth.size,
        abs_rel=(np.abs(error) / truth).sum(),
        sq_rel=(error**2 / truth).sum(),
        rmse_log=(log**2).sum(),
        log10=(np.abs(log) / np.log(10)).sum(),
    )
    either = np.maximum(ratio, 1 / ratio)
    for k in (1, 2, 3):
        sums[f'delta{k}'] = 100 * np.sum(either < 1.25**k)
    return {key: float(value) for key, value in sums.items()}


def means(sums: Mapping[str, float]) -> dict[str, float]:
    """All metrics from sums; NaN where no pixel counts."""
    values = {}
    for name in (*_PLAIN, *_RATIO):
        count = sums['count' if name in _PLAIN else 'positive']
        mean = sums[name] / count if count else float('nan')
        values[name] = float(np.sqrt(mean)) if 'rmse' in name else mean
    return values
