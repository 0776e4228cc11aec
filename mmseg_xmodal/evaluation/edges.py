"""Metrics of edges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmseg_xmodal.registry import METRICS

from .edge_matching import greedy_matching, neighbours, thin_edges, without_stairs
from .task_metric import TaskMetric, map_pair, percent

_IGNORED = 255


@METRICS.register_module()
class EdgeMetric(TaskMetric):
    """F-measure of edges with a tolerance in place: ``odsF`` and ``oisF``, in percent.

    A predicted edge pixel is right if it is matched with a true one at most
    ``max_dist`` times the image's diagonal away, one to one. At a threshold, precision
    is the matched share of the predicted pixels, recall that of the true ones, F their
    harmonic mean.

    ``odsF``: the best F at one threshold for the whole data set (its threshold,
    precision and recall are given too). ``oisF``: F of the counts of every image at its
    own best threshold (the higher one of equal ones).

    The steps, each of which the number depends on:

    1. The prediction is thinned by :func:`thin_edges`, once, before the thresholds.
       The corners of stairs go from prediction and truth (:func:`without_stairs`); the
       truth is not thinned otherwise, so it should be thin.
    2. The number of matches at a threshold is that of a maximum matching
       (:func:`greedy_matching`). The BSDS benchmark solves an assignment of least
       total distance among those.
    3. Thresholds are not interpolated, and there is one truth per image.

    Papers report this number as computed by SEISM, in Matlab, with ``max_dist`` 0.0075
    on PASCAL-Context and 0.011 on NYUD-v2. That this metric gives equal numbers was not
    checked: compare models by it, not with published figures.

    Args:
        max_dist: Tolerance as a share of the diagonal.
        thresholds: Probabilities, or how many of them, spread evenly inside (0, 1).
        sigma: Of the thinning, in pixels; None takes the prediction as thin already.
        kwargs: As for :class:`TaskMetric`; the task is ``'edge'``, the target
            ``'gt_edge_map'`` (0, 1, or 255 = not counted, truth and prediction).

    Raises:
        ValueError: If ``max_dist`` or a threshold is outside (0, 1).
    """

    TASK = 'edge'
    TARGET = 'gt_edge_map'

    def __init__(
        self,
        max_dist: float = 0.0075,
        thresholds: int | Sequence[float] = 99,
        sigma: float | None = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if isinstance(thresholds, int):
            thresholds = [(k + 1) / (thresholds + 1) for k in range(thresholds)]
        self.thresholds = np.sort(np.asarray(thresholds, np.float64))
        inside = (self.thresholds > 0) & (self.thresholds < 1)
        if not self.thresholds.size or not inside.all() or not 0 < max_dist < 1:
            raise ValueError(
                f'EdgeMetric has max_dist={max_dist} and thresholds={thresholds}, '
                'expected numbers above 0 and below 1, and at least one threshold. '
                'Change them in the evaluator.'
            )
        self.max_dist = max_dist
        self.sigma = sigma

    def measure(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """Counts of one image at every threshold.

        Raises:
            ValueError: If the prediction is not a map of probabilities.
        """
        truth, pred = (
            field[0] for field in map_pair(sample, self.target, type(self).__name__)
        )
        if not ((pred >= 0) & (pred <= 1)).all():
            raise ValueError(
                f'EdgeMetric: {self.prediction!r} of {sample.get("img_path")!r} has '
                f'values from {pred.min():g} to {pred.max():g}, expected probabilities '
                'in [0, 1]. Let the head apply the sigmoid.'
            )
        if self.sigma is not None:
            pred = thin_edges(pred, self.sigma)
        pred = np.where((truth == _IGNORED) | (pred < self.thresholds[0]), 0.0, pred)
        pred, true = without_stairs(pred), without_stairs(truth == 1)
        radius = self.max_dist * float(np.hypot(*truth.shape))
        predicted, matched = edge_counts(true, pred, self.thresholds, radius)
        return dict(predicted=predicted, matched=matched, true=int(true.sum()))

    def summarise(self, results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """F over the data set, and at every image's best threshold."""
        predicted = np.stack([image['predicted'] for image in results])
        matched = np.stack([image['matched'] for image in results])
        true = np.array([image['true'] for image in results])
        over_all = f_measure(matched.sum(0), predicted.sum(0), true.sum())
        best = _last_best(over_all)
        own = f_measure(matched, predicted, true[:, None])
        chosen = (np.arange(len(results)), [_last_best(row) for row in own])
        ois = f_measure(matched[chosen].sum(), predicted[chosen].sum(), true.sum())
        right = matched.sum(0)[best]
        return dict(
            odsF=float(over_all[best]),
            oisF=float(ois),
            ods_threshold=float(self.thresholds[best]),
            ods_precision=percent(right, predicted.sum(0)[best]),
            ods_recall=percent(right, true.sum()),
        )


def edge_counts(
    truth: np.ndarray, pred: np.ndarray, thresholds: np.ndarray, radius: float
) -> tuple[np.ndarray, np.ndarray]:
    """Count predicted and matched pixels at every threshold.

    Args:
        truth: True edges.
        pred: Probabilities of thin edges.
        thresholds: Rising. A pixel is predicted where it reaches the threshold.
        radius: Tolerance in pixels.

    Shape:
        - truth: (H, W), 0 or 1; pred: (H, W)
        - thresholds, predicted, matched: (K,)
    """
    places = np.argwhere(pred >= thresholds[0])
    values = pred[tuple(places.T)]
    order = np.argsort(-values, kind='stable')
    true_places = np.argwhere(truth)
    near = neighbours(places[order], true_places, radius)
    is_matched = greedy_matching(near, len(true_places))
    predicted = np.searchsorted(-values[order], -thresholds, side='right')
    return predicted, np.concatenate([[0], np.cumsum(is_matched)])[predicted]


def f_measure(matched: Any, predicted: Any, true: Any) -> np.ndarray:
    """F in percent: 2 PR / (P + R) = 2 * matched / (predicted + true).

    NaN where nothing is true or predicted.
    """
    with np.errstate(invalid='ignore'):
        return 200 * np.asarray(matched, np.float64) / (predicted + np.asarray(true))


def _last_best(values: np.ndarray) -> int:
    """Place of the largest value, the last of equal ones; NaN counts as 0."""
    return len(values) - 1 - int(np.argmax(np.nan_to_num(values)[::-1]))
