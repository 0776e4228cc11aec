"""One set of gradients of a balancing fixture, and Delta_m."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmseg_xmodal.engine import GradientRuleOptimWrapper
from mmseg_xmodal.evaluation.delta_m import delta_m
from mmseg_xmodal.models import balancing
from mmseg_xmodal.models.layers.gradient_gate import GradientGate
from mmseg_xmodal.models.layers.task_batch import TaskBatch

from ..fixture import Fixture, NoRunner
from .sections import Outputs

# Direction of metrics, where a fixture states none; compared without case and signs.
LOWER = 'rmse rmselog logrmse mse mae mean median absrel sqrel relerr abserr silog'
HIGHER = 'miou iou pixacc acc accuracy odsf oisf maxf meanf ap map d1 d2 d3 delta1'


class Case(NamedTuple):
    """Gradients and losses, and what the arrays about them begin with.

    What stands under the prefix goes before what is given for all sets.
    """

    prefix: str
    arrays: Mapping[str, Tensor]
    settings: Mapping[str, Any]

    @property
    def grads(self) -> Tensor:
        return self.arrays[f'{self.prefix}grads']

    @property
    def losses(self) -> Tensor:
        return self.given('losses')

    @property
    def tasks(self) -> list[str]:
        return [f't{i}' for i in range(len(self.grads))]

    @property
    def gram(self) -> Tensor:
        return self.grads @ self.grads.T

    def given(self, name: str) -> Tensor:
        """An input, of this set or of all."""
        own = self.prefix + name
        return self.arrays[own if own in self.arrays else name]

    def setting(self, method: str) -> Mapping[str, Any]:
        """Settings of a method, of this set or of all."""
        own = self.settings.get(self.prefix.removesuffix('.'), {})
        return own.get(method) or self.settings.get(method) or {}

    def matches(self, pattern: str) -> list[tuple[str, ...]]:
        """Different groups of the pattern, among the arrays that begin with it."""
        found = (
            re.match(re.escape(self.prefix) + pattern, name) for name in self.arrays
        )
        return sorted({match.groups() for match in found if match})

    def linear(self, theta: Tensor, values: Tensor | None = None) -> dict[str, Tensor]:
        """Losses with these values whose gradients are ``grads``."""
        values = self.losses if values is None else values
        moved = theta - theta.detach()
        return {
            task: value + grad @ moved
            for task, value, grad in zip(self.tasks, values, self.grads, strict=True)
        }

    def by_wrapper(self, rule: balancing.GradientRule) -> Tensor:
        """What a step of the optimiser wrapper takes from the shared parameters."""
        theta = nn.Parameter(torch.zeros_like(self.grads[0]))
        wrapper = GradientRuleOptimWrapper(torch.optim.SGD([theta], lr=1.0), rule=rule)
        shared = theta * 1
        gates = {task: GradientGate() for task in self.tasks}
        losses = {t: self.linear(gate(shared))[t] for t, gate in gates.items()}
        total = sum(losses.values())
        total.multitask = TaskBatch(
            losses, gates=gates, shared=(shared,), shared_parameters=[theta]
        )
        wrapper.update_params(total)
        return -theta.detach()

    def by_balancer(
        self, balancer: balancing.LossBalancer, values: Tensor | None = None
    ) -> Tensor:
        """Gradient on the shared parameters; those of the balancer stay in it."""
        theta = nn.Parameter(torch.zeros_like(self.grads[0]))
        sum(balancer(self.linear(theta, values)).values()).backward()
        return theta.grad

    def weights(self, balancer: balancing.LossBalancer) -> Tensor:
        return torch.stack([balancer.last_weights[task] for task in self.tasks])

    def rule(self, rule: balancing.GradientRule) -> Tensor:
        grads = self.grads.double()
        return rule(grads @ grads.T, self.losses)

    def per_task(self, value: Any) -> dict[str, float]:
        """One number for all tasks, or one for each in their order."""
        if isinstance(value, int | float):
            return dict.fromkeys(self.tasks, value)
        numbers = value.values() if isinstance(value, Mapping) else value
        return dict(zip(self.tasks, numbers, strict=True))


def cases(arrays: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Iterator[Case]:
    """All sets of gradients."""
    for name in arrays:
        if re.fullmatch(r'(\w+\.)?grads', name):
            case = Case(name.removesuffix('grads'), arrays, settings)
            stated = settings.get(case.prefix.removesuffix('.'), {}).get('gram')
            if stated is not None:
                torch.testing.assert_close(case.gram, torch.tensor(stated))
            yield case


def gains(fixture: Fixture) -> Outputs:
    """Delta_m in both groupings.

    The second raises :class:`NoRunner` if the direction of a metric is neither stated
    nor known.
    """
    spec = (fixture.meta.get('settings') or {}).get('delta_m') or {}

    def by_task() -> Tensor:
        new, base, higher = (
            {
                task: {f'm{i}': value for i, value in enumerate(row)}
                for task, row in spec[key].items()
            }
            for key in ('new', 'base', 'higher_better')
        )
        return _gain(new, base, higher, 'libmtl')

    def by_metric() -> Tensor:
        one = spec['one_metric_per_task']
        directions = _directions(fixture, one)
        return _gain(one['multi'], one['single'], directions, 'one_metric_per_task')

    return {'delta_m.libmtl': by_task, 'delta_m.one_metric_per_task': by_metric}


def _gain(new: Any, base: Any, higher: Any, grouping: str) -> Tensor:
    value = delta_m(new, base, higher, grouping=grouping, sign='higher_is_better')
    return torch.tensor(value, dtype=torch.float64)


def _directions(
    fixture: Fixture, spec: Mapping[str, Any]
) -> dict[str, dict[str, bool]]:
    """Whether a higher value of each metric is better, by task."""
    stated = spec.get('higher_better') or {}
    return {
        task: {
            metric: _is_higher(fixture, metric, i, stated.get(task))
            for i, metric in enumerate(metrics)
        }
        for task, metrics in spec['single'].items()
    }


def _is_higher(fixture: Fixture, metric: str, index: int, stated: Any) -> bool:
    """What the fixture states for the metric, else what its name is known for."""
    if isinstance(stated, Mapping):
        stated = stated.get(metric)
    elif isinstance(stated, list):
        stated = stated[index]
    if stated is not None:
        return bool(stated)
    name = re.sub('[^a-z0-9]', '', metric.lower())
    if name not in (LOWER + ' ' + HIGHER).split():
        raise NoRunner(
            f'{fixture.name}: no runner for Delta_m of {metric!r}: whether a higher '
            'value is better is neither stated nor known'
        )
    return name in HIGHER.split()
