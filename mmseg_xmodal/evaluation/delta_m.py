"""Delta_m: how much a multi-task model gains over single-task models.

Two groupings share the name in the literature. MTI-Net (2020) and its successors take
one metric per task. LibMTL (https://github.com/median-research-group/LibMTL, MIT)
averages all metrics of a task first. The sign differs as well. Here both are arguments.
Clean room, nothing copied.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path

Metrics = Mapping[str, Mapping[str, float]]
GROUPINGS = ('libmtl', 'one_metric_per_task')
SIGNS = ('higher_is_better', 'lower_is_better')


def delta_m(
    new: Metrics,
    baseline: Metrics,
    higher_better: Mapping[str, Mapping[str, bool]],
    *,
    grouping: str,
    sign: str,
) -> float:
    """Mean relative gain over the baselines, as a fraction (0.01 is one percent).

    Args:
        new: Values of the multi-task model, by task and metric.
        baseline: Values of the single-task models. Theirs are the tasks and metrics
            that count; ``new`` may hold more.
        higher_better: Whether a higher value of the metric is better.
        grouping: ``'libmtl'``: mean over the metrics of a task, then over tasks.
            ``'one_metric_per_task'``: each task has one metric, mean over tasks.
        sign: ``'higher_is_better'``: a gain is positive. ``'lower_is_better'``: a gain
            is negative.

    Raises:
        ValueError: If a baseline is 0 or not finite, a new value is not finite, a value
            is missing, or the grouping or the sign is unknown or does not fit.
    """
    if grouping not in GROUPINGS or sign not in SIGNS:
        raise ValueError(
            f'delta_m got grouping={grouping!r} and sign={sign!r}, expected one of '
            f'{list(GROUPINGS)} and one of {list(SIGNS)}.'
        )
    gains = relative_gains(new, baseline, higher_better)
    several = {task: list(values) for task, values in gains.items() if len(values) != 1}
    if grouping == 'one_metric_per_task' and several:
        raise ValueError(
            f"grouping='one_metric_per_task', but the baselines have {several}. Keep "
            "one metric per task, or choose 'libmtl'."
        )
    per_task = [sum(values.values()) / len(values) for values in gains.values()]
    mean = sum(per_task) / len(per_task)
    return mean if sign == 'higher_is_better' else -mean


def relative_gains(
    new: Metrics,
    baseline: Metrics,
    higher_better: Mapping[str, Mapping[str, bool]],
) -> dict[str, dict[str, float]]:
    """Relative gain of every metric, positive where the new value is better.

    Args:
        new: As for :func:`delta_m`.
        baseline: As for :func:`delta_m`.
        higher_better: As for :func:`delta_m`.

    Raises:
        ValueError: As :func:`delta_m`.
    """
    if not baseline or not all(baseline.values()):
        raise ValueError(
            f'The baselines are {dict(baseline)!r}, expected at least one metric for '
            'each task: {task: {metric: value}}.'
        )
    gains: dict[str, dict[str, float]] = {}
    for task, metrics in baseline.items():
        gains[task] = {}
        for metric, old in metrics.items():
            where = f'{task}/{metric}'
            value = _find(new, 'new', task, metric)
            better = _find(higher_better, 'higher_better', task, metric)
            if not math.isfinite(old) or old == 0:
                raise ValueError(
                    f'The baseline of {where} is {old}, expected a finite number other '
                    'than 0: gains are relative to it. Leave this metric out, or '
                    'measure it again.'
                )
            if not math.isfinite(value):
                raise ValueError(
                    f'The new value of {where} is {value}, expected a finite number.'
                )
            # A negative baseline would turn the direction round.
            gain = (value - old) / abs(old)
            gains[task][metric] = gain if better else -gain
    return gains


def _find(table: Mapping[str, Mapping], name: str, task: str, metric: str) -> float:
    try:
        return table[task][metric]
    except KeyError:
        raise ValueError(
            f'{name} has no value for {task}/{metric}, which is in the baselines. It '
            f'has { ({t: list(m) for t, m in table.items()}) }.'
        ) from None


@dataclasses.dataclass(frozen=True)
class Baselines:
    """Stored values of single-task models.

    Args:
        values: By task and metric.
        path: The file.
        sha256: Hash of the file, to be printed beside each Delta_m.
    """

    values: dict[str, dict[str, float]]
    path: Path
    sha256: str


def load_baselines(path: str | Path) -> Baselines:
    """Read ``{task: {metric: value}}`` from a JSON file.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f'{path} is no file. Write the metrics of the single-task models to it as '
            'JSON: {"task": {"metric": value}}.'
        )
    data = path.read_bytes()
    try:
        table = json.loads(data)
    except ValueError as error:
        raise ValueError(f'{path} is no JSON: {error}.') from error
    if not _is_table(table):
        raise ValueError(
            f'{path} holds {str(table)[:200]}, expected '
            '{"task": {"metric": value}} with a number for each metric.'
        )
    values = {
        task: {metric: float(value) for metric, value in metrics.items()}
        for task, metrics in table.items()
    }
    return Baselines(values, path, hashlib.sha256(data).hexdigest())


def _is_table(table: object) -> bool:
    return isinstance(table, dict) and all(
        isinstance(metrics, dict)
        and all(
            isinstance(value, int | float) and not isinstance(value, bool)
            for value in metrics.values()
        )
        for metrics in table.values()
    )
