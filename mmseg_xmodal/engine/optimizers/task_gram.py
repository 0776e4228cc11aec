"""Inner products of the gradients that tasks send into the shared part of a model."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from mmengine.dist import all_reduce, broadcast, get_world_size
from torch import Tensor

from mmseg_xmodal.models.layers.task_batch import TaskBatch

_CHUNK = 1 << 20  # numbers per task that are in double precision at a time


def labelled_anywhere(batch: TaskBatch) -> tuple[list[str], Tensor, bool]:
    """Tasks that some rank has labels for, and their losses.

    Every rank must call it. One process reads nothing from the device.

    Args:
        batch: The batch of this rank.

    Returns:
        The tasks, in the order of the gates; their losses, means over the ranks that
        have labels; whether a rank lacks labels for one of them.

    Shape:
        - losses: (T,) float32, on the device of the losses
    """
    every = list(batch.gates)
    if get_world_size() == 1:
        tasks = [task for task in every if task in batch.losses]
        return tasks, _stack([batch.losses[task] for task in tasks]), False
    zero = torch.zeros((), device=batch.shared[0].device)
    sums = _stack([batch.losses.get(task, zero) for task in every])
    has = sums.new_tensor([float(task in batch.losses) for task in every])
    both = torch.stack([sums, has])
    all_reduce(both, 'sum')
    counts = both[1].tolist()
    chosen = [i for i, count in enumerate(counts) if count]
    partial = any(counts[i] < get_world_size() for i in chosen)
    means = (both[0] / both[1])[chosen]
    return [every[i] for i in chosen], means, partial


def _stack(losses: Sequence[Tensor]) -> Tensor:
    if not losses:
        return torch.zeros(0)
    return torch.stack([loss.detach().float() for loss in losses])


def task_grams(
    batch: TaskBatch,
    tasks: Sequence[str],
    spaces: Collection[str],
    loss_scale: float,
    partial: bool,
) -> dict[str, Tensor]:
    """Inner products of the gradients of the tasks, one backward pass per task.

    Every rank must call it with the same tasks. Nothing but the products leaves the
    device.

    ``'parameters'``: of the gradients on the shared parameters, averaged over the ranks
    as DDP averages them. ``'features'``: of the gradients on the maps behind the neck.
    Ranks have different samples, so their products are averaged, which is not the
    product of averages.

    Args:
        batch: The batch of this rank, its gates open.
        tasks: Tasks that some rank has labels for; one without labels on this rank has
            a gradient of 0 here.
        spaces: Some of ``'parameters'`` and ``'features'``.
        loss_scale: Factor on the losses during the backward passes, taken out again.
        partial: Whether a rank lacks labels for one of the tasks.

    Shape:
        - each matrix: (T, T) float64, on the CPU
    """
    maps = [x for x in batch.shared if x.requires_grad]
    maps = maps if 'features' in spaces else []
    parameters = batch.shared_parameters if 'parameters' in spaces else []
    _check(spaces, maps, parameters)
    inputs = [*maps, *parameters]
    count = len(tasks)
    rows = None
    if parameters:
        length = sum(p.numel() for p in parameters)
        rows = parameters[0].new_zeros(count, length, dtype=torch.float32)
    on_maps: list[list[Tensor]] = [[] for _ in maps]
    for i, task in enumerate(tasks):
        grads = _gradients(batch, task, inputs, loss_scale, partial)
        for column, grad in zip(on_maps, grads, strict=False):
            column.append(grad.flatten())
        if rows is not None:
            flat = [grad.flatten() for grad in grads[len(maps) :]]
            torch.cat(flat, out=rows[i])
    grams = {}
    if rows is not None:
        all_reduce(rows, 'mean')
        grams['parameters'] = _products(list(rows))
    if maps:
        gram = torch.stack([_products(column) for column in on_maps]).sum(0)
        all_reduce(gram, 'mean')
        grams['features'] = gram
    stacked = torch.stack(list(grams.values())) / loss_scale**2
    # To the last bit alike on every rank, on whatever devices they run.
    broadcast(stacked, 0)
    return dict(zip(grams, stacked.cpu(), strict=True))


def _check(
    spaces: Collection[str], maps: Sequence[Tensor], parameters: Sequence[Tensor]
) -> None:
    empty = {'features': not maps, 'parameters': not parameters}
    wrong = [space for space in spaces if empty[space]]
    if wrong:
        raise ValueError(
            f'A gradient rule wants the gradients on the shared {" and ".join(wrong)}, '
            'but none is trained there (backbone, neck and interaction are frozen): '
            "there is nothing to weigh. Set optim_wrapper.type='OptimWrapper'."
        )


def _gradients(
    batch: TaskBatch,
    task: str,
    inputs: Sequence[Tensor],
    loss_scale: float,
    partial: bool,
) -> list[Tensor]:
    """Gradients of one task on this rank; zeros where it has none."""
    loss = batch.losses.get(task)
    if partial and batch.anchor is not None:
        # Every rank goes through the same modules: synchronised norms exchange
        # numbers in their backward pass.
        loss = batch.anchor if loss is None else loss + batch.anchor
    if loss is None or not loss.requires_grad:
        return [torch.zeros_like(x) for x in inputs]
    # Not `backward`: DDP must not take these for the gradients of the step.
    grads = torch.autograd.grad(
        loss * loss_scale, inputs, retain_graph=True, allow_unused=True
    )
    return [
        torch.zeros_like(x) if grad is None else grad
        for x, grad in zip(inputs, grads, strict=True)
    ]


def _products(vectors: Sequence[Tensor]) -> Tensor:
    """Inner products in double precision, piece by piece.

    Shape:
        - vectors: (N,) each
        - output: (T, T) float64
    """
    count, length = len(vectors), len(vectors[0])
    gram = vectors[0].new_zeros(count, count, dtype=torch.float64)
    for start in range(0, length, _CHUNK):
        piece = torch.stack([v[start : start + _CHUNK] for v in vectors]).double()
        gram += piece @ piece.T
    return gram
