"""A multi-task model of a few numbers, with the interface of the real one."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import Dataset

from mmseg_xmodal.engine import GradientRuleOptimWrapper
from mmseg_xmodal.models.balancing import GradientRule, LossBalancer, PCGrad
from mmseg_xmodal.models.layers.gradient_gate import GradientGate
from mmseg_xmodal.models.layers.task_batch import TaskBatch, connected_zero

TASKS = ('a', 'b', 'c')


class TaskToy(BaseModel):
    """A shared network, and a linear head per task that fits its own target.

    Args:
        tasks: Names.
        balancer: Weighs the losses; None = plain sum.
        norm: Whether there is a batch norm.
    """

    def __init__(
        self,
        tasks: Sequence[str] = TASKS,
        balancer: LossBalancer | None = None,
        norm: bool = False,
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tasks = tuple(tasks)
        middle = nn.BatchNorm1d(6) if norm else nn.Tanh()
        self.backbone = nn.Sequential(nn.Linear(4, 6), middle, nn.Linear(6, 5))
        self.heads = nn.ModuleDict({task: nn.Linear(5, 2) for task in tasks})
        self.balancer = balancer
        self.batch: TaskBatch | None = None
        self.losses_seen: list[dict[str, float]] = []

    def forward(
        self, inputs: Tensor, targets: dict[str, Tensor], mode: str = 'tensor'
    ) -> Any:
        """Losses by task of the samples that are not NaN there."""
        shared = self.backbone(inputs)
        if mode != 'loss':
            return shared
        gates = {task: GradientGate() for task in self.tasks}
        losses = {}
        for task, gate in gates.items():
            used = targets[task].isfinite().all(1)
            if used.any():
                out = self.heads[task](gate(shared)[used])
                losses[task] = (out - targets[task][used]).square().mean()
        self.batch = TaskBatch(
            gates=gates,
            shared=(shared,),
            anchor=connected_zero(shared),
            shared_parameters=list(self.backbone.parameters()),
        )
        return losses

    def parse_losses(
        self, losses: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """As the real model: sum, and the batch as an attribute."""
        batch, self.batch = self.batch, None
        self.losses_seen.append({t: v.item() for t, v in losses.items()})
        batch.unlabelled = tuple(t for t in self.tasks if t not in losses)
        batch.losses = losses if self.balancer is None else self.balancer(losses)
        zeros = connected_zero(*(self.heads[t] for t in batch.unlabelled))
        if self.balancer is not None:
            zeros = zeros + connected_zero(self.balancer)
        total = sum(batch.losses.values()) + zeros + batch.anchor
        total.multitask = batch
        return total, dict(loss=total.detach())


def toy_batch(
    index: int = 0, size: int = 8, without: Sequence[str] = (), tasks=TASKS
) -> dict[str, Any]:
    """Inputs and targets; the targets of ``b`` are large and against those of ``a``."""
    generator = torch.Generator().manual_seed(100 + index)
    draw = {t: torch.randn(size, 2, generator=generator) for t in ('x', *tasks)}
    inputs = torch.cat([draw['x'], torch.randn(size, 2, generator=generator)], 1)
    targets = {task: draw[task] for task in tasks}
    if 'b' in targets:
        targets['b'] = 5 * targets['b'] - 5 * targets['a']
    for task in without:
        targets[task] = torch.full_like(targets[task], torch.nan)
    return dict(inputs=inputs, targets=targets)


class ToyTaskData(Dataset):
    """Single samples of :func:`toy_batch`."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> dict[str, Any]:
        batch = toy_batch(index, 1)
        targets = {task: value[0] for task, value in batch['targets'].items()}
        return dict(inputs=batch['inputs'][0], targets=targets)


def total_of(model: TaskToy, batch: dict[str, Any]) -> Tensor:
    """The scalar that the optimiser wrapper gets."""
    return model.parse_losses(model(**batch, mode='loss'))[0]


def own_gradients(model: TaskToy, batch: dict[str, Any]) -> dict[str, Tensor]:
    """Gradients of single tasks on the shared parameters, by plain backward passes."""
    gradients = {}
    for task in model.tasks:
        model.zero_grad()
        losses = model(**batch, mode='loss')
        losses[task].backward()
        flat = [p.grad.flatten() for p in model.backbone.parameters()]
        gradients[task] = torch.cat(flat)
    model.zero_grad()
    return gradients


_COUNT = itertools.count()


def toy_task_runner(
    work_dir: Path,
    model: TaskToy,
    optim_wrapper: dict[str, Any],
    hooks: Sequence[dict] = (),
    iterations: int = 6,
    **kwargs: Any,
) -> Runner:
    """A runner that saves at every third iteration and logs at every second."""
    return Runner(
        model=model,
        work_dir=str(work_dir),
        train_dataloader=dict(
            batch_size=4,
            num_workers=0,
            dataset=ToyTaskData(),
            sampler=dict(type='mmseg_xmodal.SeededInfiniteSampler', shuffle=True),
            collate_fn=dict(type='default_collate'),
        ),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=iterations),
        optim_wrapper=dict(
            optimizer=dict(type='SGD', lr=0.05, momentum=0.9), **optim_wrapper
        ),
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', interval=3, by_epoch=False),
            logger=dict(type='LoggerHook', interval=2),
        ),
        custom_hooks=list(hooks),
        log_processor=dict(by_epoch=False),
        randomness=dict(seed=3),
        visualizer=dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')]),
        experiment_name=f'task-toy-{next(_COUNT)}',
        log_level='WARNING',
        default_scope='mmengine',
        **kwargs,
    )


def wrap(
    model: nn.Module,
    rule: dict | GradientRule | None = None,
    plain: bool = False,
    momentum: float = 0.9,
    lr: float = 0.05,
    **kwargs: Any,
) -> Any:
    """SGD in our wrapper, or in mmengine's."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    if plain:
        return OptimWrapper(optimizer, **kwargs)
    return GradientRuleOptimWrapper(optimizer, rule=rule or PCGrad(), **kwargs)


def run(
    model: TaskToy, wrapper: Any, steps: int = 4, start: int = 0, **batch: Any
) -> dict[str, Tensor]:
    """Train, and return the weights."""
    for i in range(start, start + steps):
        wrapper.update_params(total_of(model, toy_batch(i, **batch)))
    return copy.deepcopy(model.state_dict())


def assert_equal(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    """Compare two state dicts bit for bit."""
    assert one.keys() == two.keys()
    for key, value in one.items():
        assert torch.equal(value, two[key]), key
