"""How the tasks of a model pull on what they share, in the log."""

from __future__ import annotations

import copy
import math
from itertools import combinations
from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from torch import Tensor

from mmseg_xmodal.models.balancing import GradientRule
from mmseg_xmodal.models.balancing.base import unit_gram
from mmseg_xmodal.registry import HOOKS
from mmseg_xmodal.visualization.conflicts import conflict_matrix

from ..optimizers.gradient_rules import SPACES, TaskRuleMixin
from ..unwrap import unwrapped


@HOOKS.register_module()
class TaskBalanceHook(Hook):
    """Log losses, weights, gradient norms and cosines of the tasks.

    It needs a gradient rule in the optimiser wrapper; ``SumRule`` trains as ever and
    computes the gradients of the tasks only where this hook logs. Scalars go to the
    visualizer (``scalars.json``, TensorBoard, ...) under ``task_balance/``: ``loss/T``,
    ``weight/T`` of the gradient, ``loss_weight/T`` of the loss balancer, ``norm/T`` of
    the gradient, ``cosine/A-B`` of two gradients. Norms and cosines are those of the
    space of the wrapper.

    Args:
        interval: Iterations from one log entry to the next.
        draw_interval: Iterations from one picture of the cosines to the next
            (``task_conflicts``); 0 = none.
        compare_spaces: Whether to log ``task_balance/spaces_cosine`` too: the cosine
            between the update of the shared parameters by weights of the feature space
            and the exact one. Costs the backward passes of ``'parameters'`` in the
            iterations that are logged.

    Raises:
        ValueError: If an interval is out of its range.
        TypeError: If the optimiser wrapper has no gradient rule (when training starts).
    """

    priority = 'NORMAL'

    def __init__(
        self,
        interval: int = 50,
        draw_interval: int = 1000,
        compare_spaces: bool = False,
    ) -> None:
        if interval < 1 or draw_interval < 0:
            raise ValueError(
                f'TaskBalanceHook has interval={interval} and draw_interval='
                f'{draw_interval}, expected 1 or more, and 0 or more. Change them in '
                'custom_hooks.'
            )
        self.interval, self.draw_interval = interval, draw_interval
        self.compare_spaces = compare_spaces
        self._rule: GradientRule | None = None

    def before_train(self, runner: Any) -> None:
        """Check the optimiser wrapper."""
        if not isinstance(runner.optim_wrapper, TaskRuleMixin):
            raise TypeError(
                'TaskBalanceHook: optim_wrapper is a '
                f'{type(runner.optim_wrapper).__name__}, which knows no tasks. Set '
                "optim_wrapper=dict(type='mmseg_xmodal.GradientRuleOptimWrapper', "
                "rule=dict(type='mmseg_xmodal.SumRule'), ...), which trains alike, or "
                'take the hook out of custom_hooks.'
            )

    def before_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Ask for the gradients of an iteration that will be logged."""
        if not (self._logs(runner) or self._draws(runner)):
            return
        wrapper = runner.optim_wrapper
        wrapper.measure(SPACES if self.compare_spaces else ())
        # As it is before the step: rules draw numbers and learn.
        self._rule = copy.deepcopy(wrapper.rule) if self.compare_spaces else None

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Log and draw."""
        wrapper = runner.optim_wrapper
        # No task: the step was skipped.
        if not is_main_process() or not wrapper.tasks:
            return
        if self._logs(runner):
            scalars = self._scalars(runner)
            runner.visualizer.add_scalars(scalars, step=runner.iter + 1)
            shown = '  '.join(f'{key}: {value:.4g}' for key, value in scalars.items())
            runner.logger.info(f'Iter {runner.iter + 1}  {shown}')
        if self._draws(runner) and wrapper.gram is not None:
            norms, cosines = unit_gram(wrapper.gram)
            title = f'iteration {runner.iter + 1}, on shared {wrapper.gram_space}'
            image = conflict_matrix(
                wrapper.tasks, cosines.numpy(), norms.numpy(), title
            )
            runner.visualizer.add_image('task_conflicts', image, step=runner.iter + 1)

    def _logs(self, runner: Any) -> bool:
        return self.every_n_train_iters(runner, self.interval)

    def _draws(self, runner: Any) -> bool:
        return bool(self.draw_interval) and self.every_n_train_iters(
            runner, self.draw_interval
        )

    def _scalars(self, runner: Any) -> dict[str, float]:
        wrapper = runner.optim_wrapper
        tasks = wrapper.tasks
        values = dict(loss=wrapper.losses, weight=wrapper.weights)
        scalars = {
            f'{name}/{task}': float(value)
            for name, vector in values.items()
            for task, value in zip(tasks, vector, strict=True)
        }
        balancer = getattr(unwrapped(runner.model), 'balancer', None)
        for task, weight in getattr(balancer, 'last_weights', {}).items():
            scalars[f'loss_weight/{task}'] = float(weight)
        if wrapper.gram is not None:
            norms, cosines = unit_gram(wrapper.gram)
            for task, norm in zip(tasks, norms, strict=True):
                scalars[f'norm/{task}'] = float(norm)
            for i, j in combinations(range(len(tasks)), 2):
                scalars[f'cosine/{tasks[i]}-{tasks[j]}'] = float(cosines[i, j])
        grams = wrapper.grams.values()
        # In mixed precision they overflow now and then; rules take finite ones.
        known = len(grams) == len(SPACES) and all(g.isfinite().all() for g in grams)
        if self._rule is not None and known:
            scalars['spaces_cosine'] = self._spaces_cosine(wrapper, self._rule)
        # JSON has no NaN.
        return {
            f'task_balance/{key}': value
            for key, value in scalars.items()
            if math.isfinite(value)
        }

    def _spaces_cosine(self, wrapper: Any, rule: GradientRule) -> float:
        """Cosine between the two updates of the shared parameters."""
        rule.bind(wrapper.rule.tasks)
        exact = wrapper.grams['parameters']
        own = wrapper.gram_space
        other = next(space for space in SPACES if space != own)
        weights = {own: wrapper.weights}
        weights[other] = rule(wrapper.grams[other], wrapper.losses, wrapper.tasks)
        a, b = weights['parameters'], weights['features']
        return float(a @ exact @ b / (_length(a, exact) * _length(b, exact)))


def _length(weights: Tensor, gram: Tensor) -> Tensor:
    return torch.sqrt(weights @ gram @ weights)
