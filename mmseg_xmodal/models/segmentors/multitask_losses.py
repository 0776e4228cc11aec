"""From the loss terms of a batch to one scalar per task, and what can be wrong."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.dist import all_gather_object, all_reduce
from mmengine.logging import print_log
from mmseg.structures import SegDataSample
from torch import Tensor

from ..layers.norm_statistics import put_back
from ..layers.task_batch import TaskBatch, connected_zero, guard


def sample_paths(samples: Sequence[SegDataSample]) -> list[str]:
    """``img_path`` of each sample."""
    return [str(sample.get('img_path')) for sample in samples]


def check_task_valid(samples: Sequence[SegDataSample], known: Sequence[str]) -> None:
    """Compare the tasks that the data name with those of the model.

    Raises:
        ValueError: If ``task_valid`` of a sample has a task that the model has not.
    """
    for sample in samples:
        named = sample.get('task_valid') or {}
        unknown = sorted(set(named) - set(known))
        if unknown:
            raise ValueError(
                f'task_valid of {sample.get("img_path")!r} has {unknown}, which the '
                f'model does not know: the data name {sorted(named)}, the model has '
                f'{sorted(known)} (seg_task and task_heads). Make both agree; to leave '
                'a task of the model out, use its tasks=[...].'
            )


def task_sums(terms: Mapping[str, Tensor], tasks: Sequence[str]) -> dict[str, Tensor]:
    """Sum of the losses of each task, in single precision at least.

    Args:
        terms: Scalars by ``'<task>.<name>'``; those with ``loss`` in the name count.
        tasks: Names of the tasks.

    Raises:
        ValueError: If a key names no task.
    """
    sums: dict[str, Tensor] = {}
    for key, value in terms.items():
        task, _, name = key.partition('.')
        if task not in tasks:
            raise ValueError(
                f"The losses have the key {key!r}, expected '<task>.<name>' with a "
                f'task of {list(tasks)}. Rename it where loss() of the model adds it.'
            )
        if 'loss' in name:
            value = value.to(torch.promote_types(value.dtype, torch.float32))
            sums[task] = sums.get(task, 0) + value
    return sums


def add_up(
    model: Any, batch: TaskBatch, terms: Mapping[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Weigh and add the losses of the tasks; every rank must call it.

    Args:
        model: The segmentor: ``tasks``, ``balancer``, ``on_bad_loss``, and the
            parameters of a skipped step.
        batch: The batch of this rank; receives the losses, and whether to skip.
        terms: Scalars by ``'<task>.<name>'``.

    Returns:
        The scalar to minimise, with the attribute ``multitask``, and what is logged.

    Raises:
        ValueError: On a bad batch, unless it is skipped.
    """
    sums = task_sums(terms, model.tasks)
    total: Any = batch.anchor
    for task in batch.unlabelled:
        total = total + sums.pop(task)
    batch.losses = sums
    wrong = complaint(batch, model.tasks, terms)
    if not wrong and model.balancer is not None:
        batch.losses = model.balancer(sums)
        total = total + connected_zero(model.balancer)
        wrong = complaint(batch, model.tasks, terms)
    if wrong:
        report(wrong, model.on_bad_loss)
        # NaN among the running statistics would stay there. The scalar below has
        # nothing of the forward pass in its graph.
        put_back(batch.statistics)
        batch.skip, batch.losses, batch.shared, batch.anchor = True, {}, (), None
        total = connected_zero(model)
        terms = {k: v for k, v in terms.items() if bool(v.isfinite())}
        value: Any = sum(task_sums(terms, model.tasks).values())
    else:
        # A new tensor, never one of `losses`: it will hold them.
        total = value = sum(batch.losses.values()) + total
    batch.statistics = []
    if model.on_bad_loss == 'skip':
        total = guard(total, batch)
    total.multitask = batch
    logged = OrderedDict(loss=torch.as_tensor(value).detach())
    logged.update((name, term.detach()) for name, term in terms.items())
    return total, logged


def complaint(
    batch: TaskBatch, tasks: Sequence[str], terms: Mapping[str, Tensor]
) -> str:
    """Say what is wrong with the losses on any rank; nothing if they are fine.

    Every rank must call it.

    Args:
        batch: The batch of this rank.
        tasks: All tasks, in the same order on every rank.
        terms: What ``batch.losses`` are the sums of, by ``'<task>.<name>'``.
    """
    # One exchange and one look at the device.
    flags = torch.zeros(len(tasks) + 1, device=batch.shared[0].device)
    for flag, task in zip(flags, tasks, strict=False):
        if task in batch.losses:
            flag.copy_(~batch.losses[task].isfinite())
    flags[-1] = bool(batch.losses)
    all_reduce(flags, op='max')
    *bad, labelled = flags.tolist()
    # A rank without labels is fine as long as another one has some.
    if labelled and not any(bad):
        return ''
    own = _own(batch, terms, bool(labelled))
    lines = [line for lines in all_gather_object(own) for line in lines]
    return ' '.join(lines)


def _own(batch: TaskBatch, terms: Mapping[str, Tensor], labelled: bool) -> list[str]:
    lines: list[str] = []
    for task, loss in batch.losses.items():
        if bool(loss.isfinite()):
            continue
        parts = [
            f'{key}={value.item():.4g}'
            for key, value in terms.items()
            if key.startswith(f'{task}.') and 'loss' in key.partition('.')[2]
        ]
        paths = [batch.paths[i] for i in batch.labelled[task]]
        lines.append(
            f'The loss of task {task!r} is {loss.item():.4g} ({", ".join(parts)}) on '
            f'{paths}, expected a finite number.'
        )
    if not labelled:
        lines.append(
            f'No task of {list(batch.unlabelled)} has labels in the batch of '
            f'{batch.paths}, expected at least one.'
        )
    return lines


def report(wrong: str, on_bad_loss: str) -> None:
    """Warn where the step is skipped.

    Raises:
        ValueError: Where it is not.
    """
    if on_bad_loss == 'skip':
        text = f'This step is skipped. {wrong}'
        print_log(text, logger='current', level=logging.WARNING)
        return
    raise ValueError(
        f'{wrong} Look at the labels of these samples and at task_valid, lower the '
        "learning rate, set optim_wrapper.clip_grad; or set on_bad_loss='skip' in the "
        "model and optim_wrapper.type='mmseg_xmodal.SkippingOptimWrapper'."
    )
