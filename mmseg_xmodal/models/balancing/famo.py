"""FAMO: fast adaptive multi-task optimisation.

Paper: Liu, Feng, Stone, Liu, "FAMO: Fast Adaptive Multitask Optimization", NeurIPS
2023, https://arxiv.org/abs/2306.03792. Checked against LibMTL
(https://github.com/median-research-group/LibMTL, MIT). Clean room, nothing copied.

Differences: losses are those of all ranks. A task without labels takes no part in a
step, and its logit stands still. With ``second_forward=False`` the losses after the
step are those of the next batch, which saves a forward pass but is not the published
method: the difference of two batches is added to the difference that a step makes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from mmseg_xmodal.registry import MODELS

from .adam import AdamState
from .base import LossBalancer, per_task


@MODELS.register_module()
class FAMO(LossBalancer):
    """Decreases all losses at one relative rate, at the cost of a forward pass.

    With ``z = softmax(logits)`` and ``D_t = L_t - floor_t + eps`` the weights are
    ``c z_t / D_t``, ``c`` such that ``c sum_t z_t / D_t = 1``: the gradient of
    ``c sum_t z_t log D_t``. After the step the losses of the same batch are measured
    again, and Adam moves the logits towards tasks whose logarithm fell less. The second
    measurement is the work of ``mmseg_xmodal.FAMOHook``, which must stand in
    ``custom_hooks``.

    Args:
        tasks: Names of all tasks; the segmentor fills them in.
        lr: Learning rate of the logits.
        weight_decay: Their weight decay.
        floor: Lowest possible loss, for all tasks or by task.
        eps: Added to a loss above its floor.
        second_forward: Whether the losses after the step are measured on the same
            batch; else those of the next batch are taken.

    Raises:
        ValueError: If ``lr`` or ``eps`` is not above 0, or ``floor`` names an unknown
            task.
    """

    logits: Tensor
    floor: Tensor
    before: Tensor
    waiting: Tensor

    def __init__(
        self,
        tasks: Sequence[str],
        lr: float = 0.025,
        weight_decay: float = 1e-3,
        floor: Mapping[str, float] | float = 0.0,
        eps: float = 1e-8,
        second_forward: bool = True,
    ) -> None:
        super().__init__(tasks)
        if not lr > 0 or not eps > 0:
            raise ValueError(
                f'FAMO has lr={lr} and eps={eps}, expected numbers above 0. Change '
                'them in balancer.'
            )
        self.eps, self.second_forward = eps, second_forward
        count = len(self.tasks)
        self.register_buffer('logits', torch.zeros(count))
        lowest = [float(value) for value in per_task(self, self.tasks, floor, 0.0)]
        self.register_buffer('floor', torch.tensor(lowest), persistent=False)
        # log D of the last call, and which tasks it holds.
        self.register_buffer('before', torch.zeros(count))
        self.register_buffer('waiting', torch.zeros(count, dtype=torch.bool))
        self.adam = AdamState(count, lr, weight_decay)
        # Set by the hook: its absence would go unnoticed.
        self.hooked = False
        self._measuring = False
        self._unmeasured = 0

    def weigh(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See :meth:`LossBalancer.forward`.

        Raises:
            RuntimeError: If no hook measures the losses after the step.
        """
        logs, labelled = self._logs(losses)
        if self._measuring:
            self._update(logs, labelled)
            return dict(losses)
        if self.training and not self.second_forward:
            self._update(logs, labelled)
        # Among the labelled tasks only.
        z = torch.softmax(self.logits.masked_fill(~labelled, -torch.inf), 0)
        shares = torch.where(labelled, z * torch.exp(-logs), 0.0)
        if self.training:
            self._expect_hook()
            self.before.copy_(logs)
            self.waiting.copy_(labelled)
        return self.scale(losses, shares / shares.sum())

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Calls inside give the losses after the step, and return them as they are."""
        self._measuring = True
        try:
            yield
        finally:
            self._measuring = False
            self._unmeasured = 0

    def _logs(self, losses: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        values, labelled = self.over_ranks(losses, self.logits)
        above = (values - self.floor).clamp(min=0) + self.eps
        return above.log(), labelled

    def _update(self, after: Tensor, labelled: Tensor) -> None:
        """Move the logits of the tasks that were measured before and after."""
        fell = self.before - after
        moved = self.waiting & labelled & fell.isfinite()
        z = torch.softmax(self.logits.masked_fill(~moved, -torch.inf), 0)
        fell = torch.where(moved, fell, 0.0)
        grad = z * (fell - (z * fell).sum())
        self.adam.step(self.logits, grad, moved)
        self.waiting.fill_(False)

    def _expect_hook(self) -> None:
        self._unmeasured += 1
        if self.second_forward and not self.hooked and self._unmeasured > 1:
            raise RuntimeError(
                'FAMO was called twice and nothing measured the losses after the step. '
                "Add dict(type='mmseg_xmodal.FAMOHook') to custom_hooks, or set "
                'second_forward=False in balancer.'
            )
