"""Domain adaptation in two processes on the CPU (gloo), under the stock wrapper."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmengine.runner import CheckpointLoader

from tests.test_models.adaptation_toys import student_cfg

from .test_ddp import _reports, _train

MODEL = dict(
    type='mmseg_xmodal.DomainAdaptiveSegmentor',
    student=student_cfg(),
    anchor='copy',
    pseudo_labels=dict(threshold=0.3),
    terms=[
        dict(type='mmseg_xmodal.FeatureAnchor', classes=[1, 2, 3]),
        dict(type='mmseg_xmodal.ClassMixSelfTraining'),
        dict(type='mmseg_xmodal.MaskedConsistency', block=16),
        dict(type='mmseg_xmodal.EntropyMinimization'),
    ],
)


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, every rank with images and random draws of its own."""
    folder = tmp_path_factory.mktemp('adaptation_ddp')
    values = dict(
        default_scope='mmseg',
        custom_imports=dict(
            imports=['mmseg.models', 'tests.test_models.adaptation_toys']
        ),
        work_dir=str(folder / 'run'),
        model=MODEL,
        # Each rank gets every second image: one of the source, one of the target.
        train_dataloader=dict(
            batch_size=2,
            num_workers=0,
            sampler=dict(type='InfiniteSampler', shuffle=False),
            dataset=dict(type='mmseg_xmodal.AdaptToyImages'),
        ),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=4, val_interval=100),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.05), accumulative_counts=2),
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', interval=4, by_epoch=False),
            logger=dict(type='LoggerHook', interval=1),
        ),
        custom_hooks=[
            dict(type='mmseg_xmodal.RandomStateHook'),
            dict(type='mmseg_xmodal.EMATeacherHook', when='after'),
        ],
        log_processor=dict(by_epoch=False),
        randomness=dict(seed=0, diff_rank_seed=True),
    )
    path = folder / 'run.py'
    path.write_text(''.join(f'{key} = {value!r}\n' for key, value in values.items()))
    _train(folder, path)
    return folder / 'run'


def test_ranks_agree_on_student_and_teacher(trained: Path) -> None:
    first, second = _reports(trained)
    assert first['wrapper'] == 'MMDistributedDataParallel'
    # All parameters, the teacher's too.
    assert first['equal']
    assert second['equal']
    assert first['finite']
    assert first['losses'] != second['losses']


def test_the_teacher_moved_with_the_optimiser(trained: Path) -> None:
    checkpoint = CheckpointLoader.load_checkpoint(str(trained / 'iter_4.pth'), 'cpu')
    assert checkpoint['ema_teacher'] == dict(steps=2, moves=2)
    state = checkpoint['state_dict']
    for key, value in state.items():
        if key.startswith('teacher.') and key.endswith('conv_seg.weight'):
            student = state[key.replace('teacher', 'student', 1)]
            assert not torch.equal(value, student)
