"""A multi-task model in two processes on the CPU (gloo), with partial labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS

from .test_ddp import _reports, _train

LEVELS = dict(in_channels=[8, 16, 24, 32], channels=8)
MODEL: dict[str, Any] = dict(
    type='mmseg_xmodal.MultiTaskEncoderDecoder',
    data_preprocessor=dict(
        type='mmseg_xmodal.ModalityPreprocessor',
        modalities=dict(rgb=dict(channels=3, mean=[120.0], std=[60.0], order='rgb')),
    ),
    backbone=dict(
        type='mmseg_xmodal.MixTransformer',
        variant=dict(
            embed_dims=(8, 16, 24, 32), depths=(1, 1, 1, 1), num_heads=(1, 2, 3, 4)
        ),
        in_channels=3,
    ),
    decode_head=dict(
        type='FCNHead',
        in_channels=16,
        in_index=1,
        channels=8,
        num_convs=1,
        num_classes=3,
        norm_cfg=dict(type='BN'),
    ),
    task_heads=dict(
        height=dict(
            type='mmseg_xmodal.DepthHead',
            output='linear',
            target='gt_height',
            loss_decode=dict(type='mmseg_xmodal.ToySquare'),
            in_channels=[8],
            in_index=[0],
            channels=8,
        ),
        # The only reader of the last two levels.
        det=dict(type='mmseg_xmodal.CenterDetectionHead', num_classes=1, **LEVELS),
    ),
    test_cfg=dict(mode='whole'),
)


def _write(folder: Path, name: str, bad: int | None = None, **model: Any) -> Path:
    skips = model.get('on_bad_loss') == 'skip'
    values = dict(
        default_scope='mmseg',
        custom_imports=dict(
            imports=['mmseg.models', 'tests.integration.multitask_toy']
        ),
        work_dir=str(folder / name),
        model=MODEL | model,
        # Rank 0 gets the samples 0, 2, 4, which have no boxes, rank 1 the others.
        train_dataloader=dict(
            batch_size=1,
            num_workers=0,
            sampler=dict(type='InfiniteSampler', shuffle=False),
            dataset=dict(type='ToyTasks', bad=bad),
        ),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=3, val_interval=100),
        optim_wrapper=dict(
            type='mmseg_xmodal.SkippingOptimWrapper' if skips else 'OptimWrapper',
            optimizer=dict(type='AdamW', lr=0.001),
        ),
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', interval=3, by_epoch=False),
            logger=dict(type='LoggerHook', interval=1),
        ),
        log_processor=dict(by_epoch=False),
        randomness=dict(seed=0),
    )
    path = folder / f'{name}.py'
    path.write_text(''.join(f'{key} = {value!r}\n' for key, value in values.items()))
    return path


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs ``partial`` and ``skipped``, trained one by one."""
    folder = tmp_path_factory.mktemp('multitask_ddp')
    partial = _write(
        folder,
        'partial',
        balancer=dict(type='mmseg_xmodal.UncertaintyWeighting'),
        interaction=dict(
            type='mmseg_xmodal.MultiScaleDistillation',
            in_channels=LEVELS['in_channels'],
            norm_cfg=dict(type='GN', num_groups=1),  # the last map has one pixel
        ),
    )
    # The second sample of rank 1.
    skipped = _write(folder, 'skipped', bad=3, on_bad_loss='skip')
    _train(folder, partial, skipped)
    return folder


@pytest.mark.parametrize('name', ['partial', 'skipped'])
def test_ranks_with_other_labels_agree(trained: Path, name: str):
    first, second = _reports(trained / name)
    for report in (first, second):
        assert report['wrapper'] == 'MMDistributedDataParallel'
        assert report['equal']
        assert report['finite']
    assert first['losses'] != second['losses']


def test_boxes_of_one_rank_train_the_heads_of_both(trained: Path):
    checkpoint = torch.load(trained / 'partial' / 'iter_3.pth', weights_only=False)
    # Written by rank 0, which has seen no box.
    logged = checkpoint['message_hub']['log_scalars']
    assert [key for key in logged if 'det.' in key] == ['train/det.loss_unlabelled']
    cfg = Config.fromfile(trained / 'partial.py')
    model = MODELS.build(cfg.model)
    weights = model.state_dict()
    heads = [
        name
        for name in weights
        if name.startswith('task_heads.det') and name.endswith('weight')
    ]
    optimizer = checkpoint['optimizer']['state']
    places = {name: i for i, (name, _) in enumerate(model.named_parameters())}
    assert heads
    for name in heads:
        # The gradient of rank 1 has reached rank 0.
        assert (optimizer[places[name]]['exp_avg'] != 0).any(), name


def test_the_step_of_a_bad_loss_is_left_out_on_both(trained: Path):
    checkpoint = torch.load(trained / 'skipped' / 'iter_3.pth', weights_only=False)
    steps = {int(state['step']) for state in checkpoint['optimizer']['state'].values()}
    assert steps == {2}
    # Rank 0 prints; the sample is rank 1's.
    text = (trained / 'partial_0.txt').read_text()
    (line,) = [line for line in text.splitlines() if 'This step is skipped' in line]
    assert "task 'height' is inf" in line
    assert "on ['3.png']" in line
