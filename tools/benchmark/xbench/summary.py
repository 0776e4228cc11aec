"""Average the runs of an experiment over its seeds."""

from __future__ import annotations

import statistics
from typing import Any

PER_CLASS = 'IoU.'


def over_seeds(runs: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Summarise every metric of every variant.

    Args:
        runs: Each with ``label``, ``seed`` and ``metrics``.

    Returns:
        Per label and metric: ``mean``, ``std`` (of the sample, n - 1; absent with one
        seed), ``min``, ``max`` and ``n``. A metric that is null in a run (a class
        without pixels) is left out of that run.
    """
    grouped: dict[str, dict[str, list[float]]] = {}
    for run in runs:
        metrics = grouped.setdefault(run['label'], {})
        for name, value in run['metrics'].items():
            if value is not None:
                metrics.setdefault(name, []).append(value)
    return {
        label: {name: _statistics(values) for name, values in metrics.items()}
        for label, metrics in grouped.items()
    }


def _statistics(values: list[float]) -> dict[str, float]:
    result = dict(
        mean=statistics.fmean(values), min=min(values), max=max(values), n=len(values)
    )
    if len(values) > 1:
        result['std'] = statistics.stdev(values)
    return result
