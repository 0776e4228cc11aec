"""The hook that compares a multi-task model with single-task models."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mmengine.hooks import Hook

from mmseg_xmodal.evaluation.delta_m import delta_m, load_baselines, relative_gains
from mmseg_xmodal.registry import HOOKS

_DIRECTIONS = dict(higher=True, lower=False)


@HOOKS.register_module()
class DeltaMHook(Hook):
    """Adds ``delta_m`` to the results of every validation and test, in percent.

    Stands in ``custom_hooks``. No metric sees the results of the others, a hook does:
    the value is logged with them, and ``save_best='delta_m'`` of the checkpoint hook
    works::

        dict(
            type='mmseg_xmodal.DeltaMHook',
            metrics={'mIoU': 'higher', 'depth/rmse': 'lower'},
            baselines='single_task.json',
            grouping='one_metric_per_task',
            sign='higher_is_better')

    A result that is not finite makes ``delta_m`` NaN, and a warning says which one.
    Results of :class:`ModalitySubsetTestLoop` get one ``<subset>/delta_m`` each.

    Args:
        metrics: Name of each result that counts to what is better, ``'higher'`` or
            ``'lower'``.
        baselines: Results of the single-task models: ``{task: {metric: value}}``, or a
            JSON file with that. ``depth/rmse`` is ``rmse`` of ``depth``; a name without
            a task belongs to ``seg_task``. Its hash is logged.
        grouping: As for :func:`mmseg_xmodal.evaluation.delta_m.delta_m`.
        sign: The same.
        seg_task: Task of the names without one.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a baseline is missing or unusable, or an argument is none of the
            values listed; after an evaluation, if a result is missing.
    """

    # Before RuntimeInfoHook, which hands the results to the loggers.
    priority = 'HIGHEST'

    def __init__(
        self,
        metrics: Mapping[str, str],
        baselines: str | Mapping[str, Mapping[str, float]],
        grouping: str,
        sign: str,
        seg_task: str = 'seg',
    ) -> None:
        wrong = {k: v for k, v in metrics.items() if v not in _DIRECTIONS}
        if wrong or not metrics:
            raise ValueError(
                f'DeltaMHook has metrics={dict(metrics)}, expected names of results '
                f'with {list(_DIRECTIONS)} each. Change it in custom_hooks.'
            )
        self.metrics = tuple(metrics)
        self.seg_task = seg_task
        self.higher = self._nested({k: _DIRECTIONS[v] for k, v in metrics.items()})
        self.source = 'the config'
        if not isinstance(baselines, Mapping):
            stored = load_baselines(baselines)
            baselines = stored.values
            self.source = f'{stored.path}, sha256 {stored.sha256}'
        self.baselines = self._chosen(baselines)
        self.grouping = grouping
        self.sign = sign
        # Whatever is wrong with them shows now.
        self._percent(self.baselines)

    def after_val_epoch(
        self, runner: Any, metrics: dict[str, float] | None = None
    ) -> None:
        """Add ``delta_m``."""
        self._add(runner, metrics)

    def after_test_epoch(
        self, runner: Any, metrics: dict[str, float] | None = None
    ) -> None:
        """Add ``delta_m``."""
        self._add(runner, metrics)

    def _add(self, runner: Any, metrics: dict[str, float] | None) -> None:
        if metrics is None:
            return
        for prefix in self._prefixes(metrics):
            new = {name: float(metrics[prefix + name]) for name in self.metrics}
            metrics[f'{prefix}delta_m'] = self._value(runner, prefix, new)

    def _value(self, runner: Any, prefix: str, new: Mapping[str, float]) -> float:
        unknown = [prefix + name for name in new if not math.isfinite(new[name])]
        if unknown:
            runner.logger.warning(
                f'DeltaMHook: {unknown} are not finite, so delta_m is not a number.'
            )
            return float('nan')
        nested = self._nested(new)
        value = self._percent(nested)
        gains = relative_gains(nested, self.baselines, self.higher)
        each = ', '.join(
            f'{task}/{metric} {100 * gain:+.2f} %'
            for task, of_task in gains.items()
            for metric, gain in of_task.items()
        )
        runner.logger.info(
            f'{prefix}delta_m {value:+.2f} % ({self.grouping}, {self.sign}); gains, '
            f'positive where better: {each}; baselines from {self.source}'
        )
        return value

    def _percent(self, new: Mapping[str, Mapping[str, float]]) -> float:
        return 100 * delta_m(
            new, self.baselines, self.higher, grouping=self.grouping, sign=self.sign
        )

    def _prefixes(self, metrics: Mapping[str, float]) -> list[str]:
        """What stands before the names: nothing, or the subsets of the modalities."""
        first = self.metrics[0]
        starts = [name.removesuffix(first) for name in metrics if name.endswith(first)]
        starts = [start for start in starts if not start or start.endswith('/')]
        whole = [s for s in starts if all(s + name in metrics for name in self.metrics)]
        if not whole:
            raise ValueError(
                f'DeltaMHook: the evaluator gave {sorted(metrics)}, expected '
                f'{list(self.metrics)}. Add their metrics to the evaluator, or correct '
                '`metrics` of the hook in custom_hooks.'
            )
        return [''] if '' in whole else whole

    def _split(self, name: str) -> tuple[str, str]:
        """Task and metric of a result."""
        task, slash, metric = name.partition('/')
        return (task, metric) if slash else (self.seg_task, name)

    def _nested(self, flat: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        nested: dict[str, dict[str, Any]] = {}
        for name, value in flat.items():
            task, metric = self._split(name)
            nested.setdefault(task, {})[metric] = value
        return nested

    def _chosen(
        self, baselines: Mapping[str, Mapping[str, float]]
    ) -> dict[str, dict[str, float]]:
        """The baselines of the metrics that count."""
        missing = [
            name
            for name in self.metrics
            if self._split(name)[1] not in baselines.get(self._split(name)[0], {})
        ]
        if missing:
            found = {task: list(values) for task, values in baselines.items()}
            raise ValueError(
                f'DeltaMHook: the baselines ({self.source}) hold {found}, expected '
                f'values for {missing} too ({{task: {{metric: value}}}}). Add them, or '
                'take these names out of `metrics` of the hook.'
            )
        return {
            task: {metric: float(baselines[task][metric]) for metric in of_task}
            for task, of_task in self.higher.items()
        }
