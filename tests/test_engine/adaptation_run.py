"""A small adaptation in stock loops, for tests of its hooks."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import torch
from mmengine.evaluator import BaseMetric
from mmengine.runner import Runner
from torch.utils.data import Dataset

from tests.test_models.adaptation_toys import AdaptToyImages, batch, student_cfg

_COUNT = itertools.count()
MIX = dict(type='mmseg_xmodal.ClassMixSelfTraining')


class TargetImages(Dataset):
    """Images with truth."""

    metainfo = dict(classes=('a', 'b', 'c', 'd'))

    def __len__(self) -> int:
        return 5

    def __getitem__(self, idx: int) -> dict[str, Any]:
        data = batch(20 + int(idx), each=1)
        return dict(inputs=data['inputs'][0], data_samples=data['data_samples'][0])


class Nothing(BaseMetric):
    """A metric that says nothing new."""

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results.append(1)

    def compute_metrics(self, results: list) -> dict:
        return dict(seen=len(results))


def images(batch_size: int = 2) -> dict:
    """Config of a loader without end of the target."""
    return dict(
        batch_size=batch_size,
        num_workers=0,
        dataset=TargetImages(),
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='pseudo_collate'),
    )


def adaptation(
    work_dir: Path, hooks: list, length: int = 8, validate: int | None = None, **kw: Any
) -> Runner:
    """A run of the toy, saved in its middle."""
    torch.manual_seed(0)
    model = kw.pop('model', None) or dict(
        type='mmseg_xmodal.DomainAdaptiveSegmentor',
        student=student_cfg(),
        terms=[MIX, dict(type='mmseg_xmodal.MaskedConsistency', block=16)],
        pseudo_labels=dict(threshold=0.26, ignore_bottom=8),
    )
    if validate:
        kw.update(val_dataloader=images(), val_cfg=dict(), val_evaluator=[Nothing()])
    return Runner(
        model=model,
        work_dir=str(work_dir),
        train_dataloader=dict(
            batch_size=4,
            num_workers=0,
            dataset=AdaptToyImages(),
            sampler=dict(type='mmseg_xmodal.SeededInfiniteSampler', shuffle=False),
            collate_fn=dict(type='pseudo_collate'),
        ),
        train_cfg=dict(
            type='IterBasedTrainLoop', max_iters=length, val_interval=validate or 1000
        ),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.05, momentum=0.9)),
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=4)
        ),
        custom_hooks=[
            dict(type='mmseg_xmodal.RandomStateHook'),
            dict(type='mmseg_xmodal.EMATeacherHook'),
            *hooks,
        ],
        log_processor=dict(by_epoch=False),
        default_scope='mmseg',
        randomness=dict(seed=3),
        experiment_name=f'adaptation{next(_COUNT)}',
        log_level='INFO',
        **kw,
    )


def resumed(work_dir: Path, checkpoint: Path, hooks: list, **kw: Any) -> Runner:
    """The same run, from a checkpoint."""
    runner = adaptation(work_dir, hooks, **kw)
    runner._resume, runner._load_from = True, str(checkpoint)
    return runner


def log_text(work_dir: Path) -> str:
    """Everything that was logged there."""
    return '\n'.join(p.read_text() for p in sorted(work_dir.rglob('*.log')))
