"""Optimiser wrappers that weigh the gradients of the tasks.

A rule (:mod:`mmseg_xmodal.models.balancing`) needs of the task gradients only their
inner products, and answers with one weight per task. So a step is: the T gradients, a
T x T matrix, T weights, and *one ordinary backward pass* of the total loss, in which a
gate before each head multiplies what flows into the shared part. Parameters of the
heads get their gradients as they are, DDP reduces once, and AMP, clipping and schedules
are those of mmengine.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from torch import Tensor

from mmseg_xmodal.models.balancing import GradientRule
from mmseg_xmodal.models.layers.task_batch import TaskBatch
from mmseg_xmodal.registry import MODELS, OPTIM_WRAPPERS

from .skipping import SkipBadLosses
from .task_gram import labelled_anywhere, task_grams

SPACES = ('parameters', 'features')
_KEY = 'gradient_rule'


class TaskRuleMixin(SkipBadLosses):
    """What both wrappers have in common; stands before a class of mmengine.

    Attributes:
        tasks: Tasks of the last update, those that any rank had labels for.
        losses: Their losses, means over the ranks that have labels.
        weights: Their weights.
        gram: Inner products of their gradients; None where none were computed.
        grams: The same by space.
    """

    def __init__(
        self,
        *args: Any,
        rule: Mapping[str, Any] | GradientRule,
        gram_space: str = 'parameters',
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if gram_space not in SPACES:
            raise ValueError(
                f'{type(self).__name__} has gram_space={gram_space!r}, expected one of '
                f'{list(SPACES)}. Change it in optim_wrapper.'
            )
        built = MODELS.build(dict(rule)) if isinstance(rule, Mapping) else rule
        if not isinstance(built, GradientRule):
            raise TypeError(
                f'{type(self).__name__} has the rule {type(built).__name__}, expected '
                "a gradient rule such as dict(type='mmseg_xmodal.PCGrad'). A loss "
                'balancer stands in the model: model.balancer.'
            )
        self.rule, self.gram_space = built, gram_space
        self._also: frozenset[str] = frozenset()
        self._record((), None, None, {})

    def measure(self, spaces: Collection[str] = ()) -> None:
        """Let the next update compute inner products, whatever the rule needs.

        To be called by a hook, before the iteration and alike on every rank.

        Args:
            spaces: Spaces besides that of the rule.
        """
        self._also = frozenset((self.gram_space, *spaces))

    def update_params(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """As in mmengine, with the gradients weighed.

        Raises:
            ValueError: If the loss is not that of a multi-task model, it has one task,
                or none of its shared parameters is trained.
        """
        batch = getattr(loss, 'multitask', None)
        if batch is None:
            raise ValueError(
                f'{type(self).__name__} got a loss without tasks, expected that of '
                "model.type='mmseg_xmodal.MultiTaskEncoderDecoder'. Set it, or "
                "optim_wrapper.type='OptimWrapper'."
            )
        weights: dict[str, float] = {}
        if batch.skip:
            self._record((), None, None, {})
        else:
            weights = self._weigh(batch)
        with _gated(batch, weights):
            super().update_params(loss, *args, **kwargs)

    def state_dict(self) -> dict:
        """As in mmengine, with the state of the rule."""
        state = super().state_dict()  # type: ignore[misc]
        state[_KEY] = dict(
            type=type(self.rule).__name__,
            tasks=list(self.rule.tasks),
            state=self.rule.state_dict(),
        )
        return state

    def load_state_dict(self, state_dict: dict) -> None:
        """As in mmengine, with the state of the rule.

        Raises:
            ValueError: If the state is that of another rule, or of other tasks.
        """
        state = dict(state_dict)
        saved = state.pop(_KEY, None)
        own = type(self.rule).__name__
        if saved is None:
            _warn(f'The optimiser state holds no gradient rule: {own} begins anew.')
        elif saved['type'] != own:
            raise ValueError(
                f'The optimiser state is that of the gradient rule {saved["type"]}, '
                f'the config has {own}. Resume with the rule that the checkpoint was '
                'written with, or begin from its weights with load_from.'
            )
        else:
            if saved['tasks']:
                self.rule.bind(saved['tasks'])
            self.rule.load_state_dict(saved['state'])
        super().load_state_dict(state)  # type: ignore[misc]

    def _loss_scale(self) -> float:
        """Factor that keeps gradients in the range of half precision."""
        return 1.0

    def _record(
        self,
        tasks: Sequence[str],
        losses: Tensor | None,
        weights: Tensor | None,
        grams: Mapping[str, Tensor],
    ) -> None:
        self.tasks = tuple(tasks)
        self.losses, self.weights = losses, weights
        self.grams = dict(grams)
        self.gram = self.grams.get(self.gram_space)

    def _weigh(self, batch: TaskBatch) -> dict[str, float]:
        """Weight by task, the same on every rank."""
        self.rule.bind(list(batch.gates))
        spaces = set(self._also)
        self._also = frozenset()
        if self.rule.needs_gram:
            spaces.add(self.gram_space)
        tasks, means, partial = labelled_anywhere(batch)
        weights = torch.ones(len(tasks), dtype=torch.float64)
        grams: dict[str, Tensor] = {}
        # One gradient has nothing to be weighed against.
        if len(tasks) > 1 and spaces:
            scale = self._loss_scale()
            grams = task_grams(batch, tasks, spaces, scale, partial)
            means = means.cpu()
            finite = all(bool(gram.isfinite().all()) for gram in grams.values())
            if finite and self.rule.needs_gram:
                weights = self.rule(grams[self.gram_space], means, tasks)
            if not finite or not bool(weights.isfinite().all()):
                weights = torch.ones_like(weights)
                _warn(
                    f'{type(self.rule).__name__}: the gradients of {tasks} are not '
                    'finite (in mixed precision the loss scale is too large for a '
                    'step). All weights are 1 in this step.'
                )
        self._record(tasks, means, weights, grams)
        return dict(zip(tasks, weights.tolist(), strict=True))


@contextmanager
def _gated(batch: TaskBatch, weights: Mapping[str, float]) -> Iterator[None]:
    """Set the gates; None where the weight is 1, which changes no bit."""
    for task, weight in weights.items():
        batch.gates[task].weight = None if weight == 1 else weight
    try:
        yield
    finally:
        for gate in batch.gates.values():
            gate.weight = None


def _warn(text: str) -> None:
    print_log(text, logger='current', level=logging.WARNING)


@OPTIM_WRAPPERS.register_module()
class GradientRuleOptimWrapper(TaskRuleMixin, OptimWrapper):
    """mmengine's ``OptimWrapper`` with a gradient rule, for multi-task models.

    ``gram_space='parameters'`` is the published form of the rules: T backward passes
    through the whole model, and the one of the step. It needs memory for the T
    gradients on the shared parameters, and refuses reentrant activation checkpoints
    (torch does). Under DDP the gradients are averaged over the ranks before they are
    compared, so the result is that of one process with the whole batch.

    ``gram_space='features'`` compares gradients on the shared feature maps: T backward
    passes through the heads only. An approximation, since the backbone may turn two
    maps into parameter gradients with another angle between them; under DDP the inner
    products of the ranks are averaged. ``mmseg_xmodal.TaskBalanceHook`` with
    ``compare_spaces=True`` logs how near the two updates are.

    With ``accumulative_counts`` every batch is weighed by itself, and the weighted
    gradients accumulate. A task without labels on any rank is left out; with fewer than
    two left all weights are 1. So they are where gradients are not finite, which is
    logged. Steps with bad losses are left out as in
    ``mmseg_xmodal.SkippingOptimWrapper``. The state of the rule is part of the
    optimiser's state.

    Args:
        rule: Config of a gradient rule, such as ``dict(type='mmseg_xmodal.PCGrad')``.
        gram_space: ``'parameters'`` or ``'features'``.
        optimizer: The optimiser.
        accumulative_counts: As in mmengine.
        clip_grad: As in mmengine.

    Raises:
        ValueError: If the space is unknown.
        TypeError: If the rule is none.
    """


@OPTIM_WRAPPERS.register_module()
class GradientRuleAmpOptimWrapper(TaskRuleMixin, AmpOptimWrapper):
    """The same in mixed precision.

    Set it in the config: ``--amp`` of ``train.py`` accepts stock types only. Task
    gradients are computed at the loss scale of the step, so that half precision holds
    them; where they overflow the weights are 1, and the scaler leaves the step out.

    Args:
        rule: As for :class:`GradientRuleOptimWrapper`.
        gram_space: As for :class:`GradientRuleOptimWrapper`.
        loss_scale: As in mmengine.
        dtype: As in mmengine; ``'bfloat16'`` needs no loss scale.
        kwargs: As for :class:`GradientRuleOptimWrapper`.
    """

    def _loss_scale(self) -> float:
        return float(self.loss_scaler.get_scale())
