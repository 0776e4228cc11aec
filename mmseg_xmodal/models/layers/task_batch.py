"""What a multi-task step hands from the segmentor to the optimiser's wrapper.

Rules on the gradients of tasks need more than the scalar that mmengine passes on, and a
step with a bad loss must be skipped by whoever owns the optimiser. Both travel as the
attribute ``multitask`` of the scalar, so that stock ``train_step`` stays as it is, with
and without DDP.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .gradient_gate import GradientGate
from .norm_statistics import Statistics


@dataclass(eq=False)
class TaskBatch:
    """One batch of a multi-task model.

    Args:
        losses: Scalar of each labelled task, as weighed by the loss balancer.
        unlabelled: Tasks without labels in the batch.
        gates: Gate of every task, between shared features and head. Weights set before
            the backward pass act on shared parameters only.
        shared: Maps of the neck, before the gates and before the task interaction.
        anchor: A zero that is connected to all shared maps, and to what the task
            interaction has made of them, read by a head or not.
        shared_parameters: Trainable ones of backbone, neck and task interaction.
        paths: ``img_path`` of every sample.
        labelled: Places in ``paths`` of the samples that are labelled for a task.
        statistics: Running statistics before the forward pass, to be put back if the
            step is skipped; none where no step is.
        skip: Whether the step must be left out: no update, no weight decay, no
            momentum.
        acknowledged: Whether the optimiser's wrapper has read ``skip``.
    """

    losses: dict[str, Tensor] = field(default_factory=dict)
    unlabelled: tuple[str, ...] = ()
    gates: dict[str, GradientGate] = field(default_factory=dict)
    shared: tuple[Tensor, ...] = ()
    anchor: Tensor | None = None
    shared_parameters: list[nn.Parameter] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    labelled: dict[str, tuple[int, ...]] = field(default_factory=dict)
    statistics: Statistics = field(default_factory=list)
    skip: bool = False
    acknowledged: bool = False


def connected_zero(*sources: nn.Module | Tensor) -> Tensor:
    """A zero whose gradient, zero as well, reaches every parameter and tensor given.

    DDP waits for the gradient of each parameter, so what a batch does not use must be
    part of the graph nevertheless. Nothing is read: the zero is one even where a
    parameter is not finite.

    Args:
        sources: Modules, of which the trainable parameters count, and tensors.

    Shape:
        - output: scalar float32
    """
    tensors: list[Tensor] = []
    for source in sources:
        if isinstance(source, Tensor):
            tensors.append(source)
        else:
            tensors += [p for p in source.parameters() if p.requires_grad]
    if not tensors:
        return torch.zeros(())
    # Cut first: reshaping a whole map could copy it.
    empty = [(t[:0] if t.ndim else t.reshape(1)[:0]).reshape(-1) for t in tensors]
    return torch.cat([x.float() for x in empty]).sum()


class _Guard(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, total: Tensor, batch: TaskBatch) -> Tensor:
        ctx.batch = batch
        return total.view_as(total)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        if not ctx.batch.acknowledged:
            raise ValueError(
                "The model has on_bad_loss='skip', but the optimiser wrapper does not "
                'read loss.multitask.skip and would step on skipped batches too. Set '
                "optim_wrapper.type='mmseg_xmodal.SkippingOptimWrapper' (or another "
                'wrapper with the mixin SkipBadLosses), or on_bad_loss='
                "'raise' in the model."
            )
        return grad, None


def guard(total: Tensor, batch: TaskBatch) -> Tensor:
    """Let the backward pass fail unless the optimiser's wrapper reads ``batch.skip``.

    Args:
        total: The scalar of the batch; the result is a new tensor of the same value.
        batch: What the wrapper acknowledges.

    Raises:
        ValueError: During the backward pass, so before any step, if nobody has.
    """
    return _Guard.apply(total, batch)
