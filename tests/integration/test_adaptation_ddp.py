"""Domain adaptation in two processes on the CPU (gloo), under the stock wrapper."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.runner import CheckpointLoader
from mmseg.registry import MODELS as MMSEG_MODELS
from mmseg.structures import SegDataSample
from torch import Tensor

from mmseg_xmodal.engine.hooks.label_free_pass import score_batches
from tests.test_models.adaptation_toys import (
    CLASSES,
    SIZE,
    AdaptToyImages,
    student_cfg,
)

from .test_ddp import _reports, _train

MODEL = dict(
    type='mmseg_xmodal.DomainAdaptiveSegmentor',
    student=student_cfg(),
    anchor='copy',
    # Of four classes, by a head that has hardly learned: some pixels are above it.
    pseudo_labels=dict(threshold=0.251),
    terms=[
        dict(type='mmseg_xmodal.FeatureAnchor', classes=[1, 2, 3]),
        dict(type='mmseg_xmodal.ClassMixSelfTraining'),
        dict(type='mmseg_xmodal.MaskedConsistency', block=16),
        dict(type='mmseg_xmodal.EntropyMinimization'),
    ],
)


LENGTH = 4
WATCHERS = [
    # Scores are those of one process only where all processes have its statistics.
    dict(type='FreezeBatchNorm'),
    dict(
        type='mmseg_xmodal.PseudoLabelHook',
        interval=2,
        log_interval=2,
        measure_interval=1,
    ),
    dict(type='mmseg_xmodal.CollapseAlarmHook', interval=1, begin=1),
    dict(
        type='mmseg_xmodal.LabelFreeSelectionHook',
        interval=2,
        dataloader=dict(
            batch_size=3,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=False),
            dataset=dict(type='mmseg_xmodal.AdaptToyImages'),
        ),
    ),
]


def _write(folder: Path, name: str, hooks: Sequence[dict] = ()) -> Path:
    """Config of a run in which every rank has images and random draws of its own."""
    values = dict(
        default_scope='mmseg',
        custom_imports=dict(
            imports=[
                'mmseg.models',
                'tests.integration.hooks',
                'tests.test_models.adaptation_toys',
            ]
        ),
        work_dir=str(folder / name),
        model=MODEL,
        # Each rank gets every second image: one of the source, one of the target.
        train_dataloader=dict(
            batch_size=2,
            num_workers=0,
            sampler=dict(type='InfiniteSampler', shuffle=False),
            dataset=dict(type='mmseg_xmodal.AdaptToyImages'),
        ),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=LENGTH, val_interval=100),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.05), accumulative_counts=2),
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', interval=LENGTH, by_epoch=False),
            logger=dict(type='LoggerHook', interval=1),
        ),
        custom_hooks=[
            dict(type='mmseg_xmodal.RandomStateHook'),
            dict(type='mmseg_xmodal.EMATeacherHook', when='after'),
            *hooks,
        ],
        log_processor=dict(by_epoch=False),
        randomness=dict(seed=0, diff_rank_seed=True),
    )
    path = folder / f'{name}.py'
    path.write_text(''.join(f'{key} = {value!r}\n' for key, value in values.items()))
    return path


@pytest.fixture(scope='module')
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``plain`` and ``watched``, both trained by two processes."""
    folder = tmp_path_factory.mktemp('adaptation_ddp')
    _train(folder, _write(folder, 'plain'), _write(folder, 'watched', WATCHERS))
    return folder


@pytest.fixture
def trained(runs: Path) -> Path:
    return runs / 'plain'


@pytest.fixture
def watched(runs: Path) -> dict[str, Any]:
    return _checkpoint(runs / 'watched')


def _checkpoint(run: Path) -> dict[str, Any]:
    return CheckpointLoader.load_checkpoint(str(run / f'iter_{LENGTH}.pth'), 'cpu')


def test_ranks_agree_on_student_and_teacher(trained: Path) -> None:
    first, second = _reports(trained)
    assert first['wrapper'] == 'MMDistributedDataParallel'
    # All parameters, the teacher's too.
    assert first['equal']
    assert second['equal']
    assert first['finite']
    assert first['losses'] != second['losses']


def test_the_teacher_moved_with_the_optimiser(trained: Path) -> None:
    checkpoint = _checkpoint(trained)
    assert checkpoint['ema_teacher'] == dict(steps=2, moves=2)
    state = checkpoint['state_dict']
    for key, value in state.items():
        if key.startswith('teacher.') and key.endswith('conv_seg.weight'):
            student = state[key.replace('teacher', 'student', 1)]
            assert not torch.equal(value, student)


def _images() -> list[tuple[Tensor, SegDataSample]]:
    data = AdaptToyImages()
    pairs = (data[i] for i in range(len(data)))
    return [(pair['inputs'], pair['data_samples']) for pair in pairs]


def test_pseudo_labels_of_all_ranks_are_counted(watched: dict[str, Any]) -> None:
    found = watched['pseudo_label_hook']
    assert found['iterations'].tolist() == [2, 4]
    # In four steps the two ranks see each of the eight images twice.
    samples = [sample for _, sample in _images()]
    truth = [s.gt_sem_seg.data for s in samples if s.domain == 'source']
    counts = torch.bincount(torch.stack(truth).flatten().long(), minlength=256)
    torch.testing.assert_close(found['source'].sum(0), 2.0 * counts[:CLASSES].double())
    pixels = 2 * (len(samples) - len(truth)) * SIZE[0] * SIZE[1]
    assert found['pseudo'].sum().item() == pixels
    assert 0 < found['sure'].sum().item() < pixels
    assert int(watched['collapse_alarm']['measured']) == LENGTH


def test_the_main_process_draws_alone(runs: Path) -> None:
    folder = runs / 'watched' / 'pseudo_labels'
    names = {path.name for path in folder.iterdir()}
    assert names == {'iter_2.png', 'iter_4.png', 'drift.png', 'drift.json'}
    assert not (runs / 'plain' / 'pseudo_labels').exists()


def test_scores_of_two_ranks_are_those_of_one(
    runs: Path, watched: dict[str, Any]
) -> None:
    records = watched['label_free_selection']
    assert [record['iter'] for record in records] == [2, 4]
    assert len(list((runs / 'watched').glob('best_infomax_iter_*.pth'))) == 1
    model = MMSEG_MODELS.build(MODEL).eval()
    model.load_state_dict(watched['state_dict'])
    # Five in one process: other batches than those of the two.
    batches = [
        dict(inputs=[i for i, _ in part], data_samples=[s for _, s in part])
        for part in (_images()[:5], _images()[5:])
    ]
    one = score_batches(
        batches, model.data_preprocessor, model.predicting, model.teacher
    )
    last = {name: value for name, value in records[-1].items() if name in one}
    assert last == pytest.approx(one, abs=1e-6)
    assert set(last) == set(one)
