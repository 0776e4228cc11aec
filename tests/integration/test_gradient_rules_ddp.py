"""Gradient rules and FAMO in two processes on the CPU (gloo)."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from .test_ddp import _reports, _train
from .test_multitask_ddp import MODEL

# Nothing random and no batch statistics (see FreezeBatchNorm): the gradient of a batch
# of two is then the mean of the gradients of two batches of one.
HEIGHT = MODEL['task_heads']['height']
EXACT: dict[str, Any] = dict(
    backbone=dict(MODEL['backbone'], drop_path_rate=0.0),
    decode_head=dict(MODEL['decode_head'], dropout_ratio=0.0),
    task_heads=dict(height=HEIGHT, second=dict(HEIGHT, in_channels=[24], in_index=[2])),
)


def _write(
    folder: Path,
    name: str,
    wrapper: dict[str, Any],
    hooks: list[dict],
    batch_size: int = 1,
    **model: Any,
) -> Path:
    values = dict(
        default_scope='mmseg',
        custom_imports=dict(
            imports=[
                'mmseg.models',
                'tests.integration.multitask_toy',
                'tests.integration.hooks',
            ]
        ),
        work_dir=str(folder / name),
        model=MODEL | EXACT | model,
        # Rank 0 gets the samples 0, 2, 4, which have no boxes, rank 1 the others.
        train_dataloader=dict(
            batch_size=batch_size,
            num_workers=0,
            sampler=dict(type='InfiniteSampler', shuffle=False),
            collate_fn=dict(type='pseudo_collate'),
            dataset=dict(type='ToyTasks'),
        ),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=3, val_interval=100),
        optim_wrapper=dict(
            type='mmseg_xmodal.GradientRuleOptimWrapper',
            optimizer=dict(type='SGD', lr=0.05, momentum=0.9),
            **wrapper,
        ),
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', interval=3, by_epoch=False),
            logger=dict(type='LoggerHook', interval=1),
        ),
        custom_hooks=[
            dict(type='FreezeBatchNorm'),
            dict(type='mmseg_xmodal.TaskBalanceHook', interval=1, draw_interval=0),
            *hooks,
        ],
        visualizer=dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')]),
        log_processor=dict(by_epoch=False),
        randomness=dict(seed=0),
    )
    path = folder / f'{name}.py'
    path.write_text(''.join(f'{key} = {value!r}\n' for key, value in values.items()))
    return path


PCGRAD = dict(rule=dict(type='mmseg_xmodal.PCGrad'))


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs ``exact``, ``partial`` and ``features``."""
    folder = tmp_path_factory.mktemp('gradient_rules_ddp')
    partial = dict(task_heads=copy.deepcopy(MODEL['task_heads']))
    configs = [
        _write(folder, 'exact', PCGRAD, []),
        _write(
            folder,
            'partial',
            dict(rule=dict(type='mmseg_xmodal.GradNorm')),
            [dict(type='mmseg_xmodal.FAMOHook')],
            balancer=dict(type='mmseg_xmodal.FAMO'),
            **partial,
        ),
        _write(
            folder,
            'features',
            dict(rule=dict(type='mmseg_xmodal.UPGrad'), gram_space='features'),
            [],
            balancer=dict(type='mmseg_xmodal.GeometricMeanLoss'),
            **partial,
        ),
    ]
    _train(folder, *configs)
    return folder


def _scalars(work_dir: Path) -> list[dict[str, float]]:
    (file,) = work_dir.rglob('scalars.json')
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return [line for line in lines if 'task_balance/weight/seg' in line]


@pytest.mark.parametrize('name', ['exact', 'partial', 'features'])
def test_ranks_agree(trained: Path, name: str):
    reports = _reports(trained / name)
    for report in reports:
        assert report['wrapper'] == 'MMDistributedDataParallel'
        assert report['equal']
        assert report['finite']
    assert reports[0]['losses'] != reports[1]['losses']  # each has its own samples
    assert len(_scalars(trained / name)) == 3


def test_two_processes_equal_one(trained: Path, tmp_path: Path):
    config = _write(tmp_path, 'one', PCGRAD, [], batch_size=2)
    Runner.from_cfg(Config.fromfile(config)).train()
    one, two = (
        torch.load(folder / 'iter_3.pth', weights_only=False)['state_dict']
        for folder in (tmp_path / 'one', trained / 'exact')
    )
    # Equal up to the order of float32 sums.
    torch.testing.assert_close(one, two, rtol=1e-4, atol=2e-6)
    single, double = _scalars(tmp_path / 'one'), _scalars(trained / 'exact')
    for mine, theirs in zip(single, double, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-3, abs=1e-4)
    weights = [line['task_balance/weight/seg'] for line in double]
    assert any(abs(weight - 1) > 1e-3 for weight in weights), 'no gradient conflicts'


def test_a_task_of_one_rank_counts_on_both(trained: Path):
    """Rank 0, which writes the log, has no boxes at all."""
    for name in ('partial', 'features'):
        for line in _scalars(trained / name):
            assert line['task_balance/norm/det'] > 0
            assert line['task_balance/loss_weight/seg'] > 0
    state = torch.load(trained / 'partial' / 'iter_3.pth', weights_only=False)
    saved = state['optimizer']['gradient_rule']
    assert saved['type'] == 'GradNorm'
    assert saved['tasks'] == ['seg', 'height', 'det']
    assert saved['state']['seen'].tolist() == [3, 3, 3]
    assert (state['state_dict']['balancer.logits'] != 0).all()
