"""A runner small enough to train in a second, with randomness at every place."""

# The legacy global state of numpy is the very subject here.
# ruff: noqa: NPY002
from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

from mmseg_xmodal.datasets.samplers import SeededIndex, seeded_rng


class ToyDataset(Dataset):
    """Vectors with noise from all three generators."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, idx: int) -> dict[str, torch.Tensor]:
        if isinstance(idx, SeededIndex):
            with seeded_rng(idx.seed):
                return self._load(idx)
        return self._load(idx)

    @staticmethod
    def _load(idx: int) -> dict[str, torch.Tensor]:
        noise = [random.random(), np.random.rand(), torch.rand(()).item()]
        x = torch.tensor([*noise, float(idx)], dtype=torch.float32)
        return dict(x=x, index=torch.tensor(int(idx)))


class ToyModel(BaseModel):
    """A linear layer behind dropout; validation draws random numbers too."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 8)
        self.seen: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor, index: torch.Tensor, mode: str) -> Any:
        out = nn.functional.dropout(self.fc(x), 0.5, training=True)
        if mode == 'loss':
            self.seen.append(x.clone())
            draw = random.random() + np.random.rand()
            return dict(loss=out.square().mean() * (1 + draw))
        return [dict(value=out.mean().item())]


class ToyMetric(BaseMetric):
    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results.append(np.random.rand())

    def compute_metrics(self, results: list) -> dict:
        return dict(score=float(np.mean(results)))


_COUNT = itertools.count()


def loader(workers: int, sampler: dict, batch_size: int = 2, **kwargs: Any) -> dict:
    return dict(
        batch_size=batch_size,
        num_workers=workers,
        dataset=ToyDataset(),
        sampler=sampler,
        collate_fn=dict(type='default_collate'),
        **kwargs,
    )


def toy_runner(
    work_dir: Path,
    *,
    workers: int = 0,
    by_epoch: bool = False,
    hooks: list | None = None,
    persistent: bool = False,
    seeded: bool = True,
    length: int | None = None,
    **kwargs: Any,
) -> Runner:
    """Build a runner: 8 iterations (or 4 epochs of 5), saved and validated halfway."""
    prefix = 'mmseg_xmodal.Seeded' if seeded else ''
    kind = 'DefaultSampler' if by_epoch else 'InfiniteSampler'
    if by_epoch:
        train_cfg = dict(by_epoch=True, max_epochs=length or 4, val_interval=2)
        checkpoint = dict(type='CheckpointHook', interval=2, by_epoch=True)
    else:
        train_cfg = dict(
            type='IterBasedTrainLoop', max_iters=length or 8, val_interval=4
        )
        checkpoint = dict(type='CheckpointHook', interval=4, by_epoch=False)
    checkpoint.update(kwargs.pop('checkpoint', {}))
    if hooks is None:
        hooks = [dict(type='mmseg_xmodal.RandomStateHook')]
    torch.manual_seed(0)
    return Runner(
        model=ToyModel(),
        work_dir=str(work_dir),
        train_dataloader=loader(
            workers,
            kwargs.pop('sampler', None) or dict(type=prefix + kind, shuffle=True),
            persistent_workers=persistent,
        ),
        val_dataloader=loader(workers, dict(type='DefaultSampler', shuffle=False)),
        val_evaluator=[ToyMetric()],
        train_cfg=train_cfg,
        val_cfg=dict(),
        optim_wrapper=dict(optimizer=dict(type='Adam', lr=0.01)),
        default_hooks=dict(checkpoint=checkpoint, logger=dict(type='LoggerHook')),
        custom_hooks=hooks,
        log_processor=dict(by_epoch=by_epoch),
        randomness=dict(kwargs.pop('randomness', dict(seed=3))),
        experiment_name=f'toy-{next(_COUNT)}',
        log_level='WARNING',
        default_scope='mmengine',
        **kwargs,
    )


def train(runner: Runner) -> None:
    """Train, then let the workers go.

    Left to the garbage collector, which finds the runner in a cycle, every worker
    waits for its timeout of five seconds.
    """
    runner.train()
    runner.train_loop.dataloader_iterator = None
    for loop in (runner.train_loop, runner.val_loop):
        loop.dataloader._iterator = None
