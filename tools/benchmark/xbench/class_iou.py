"""The stock IoU metric, with the IoU of every class among its results.

mmseg's ``IoUMetric`` prints the classes as text only; ``test.py`` writes what a metric
returns as JSON. ``experiment.py`` puts this one in its place by ``custom_imports``.
"""

from __future__ import annotations

from mmseg.evaluation import IoUMetric
from mmseg.registry import METRICS

from .summary import PER_CLASS


@METRICS.register_module()
class ClassIoUMetric(IoUMetric):
    """``IoUMetric`` that also returns ``IoU.<class>`` in percent, nan if absent.

    Args:
        kwargs: As for mmseg's ``IoUMetric``.
    """

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Compute the stock metrics, then the IoU per class, as plain floats."""
        metrics = {k: float(v) for k, v in super().compute_metrics(results).items()}
        if self.format_only:
            return metrics
        intersection = sum(areas[0] for areas in results)
        union = sum(areas[1] for areas in results)
        per_class = (100 * intersection / union).tolist()
        for name, value in zip(self.dataset_meta['classes'], per_class, strict=True):
            metrics[PER_CLASS + name] = round(value, 2)
        return metrics
