"""Sequential backward and two optimisers in two processes on the CPU (gloo)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import CheckpointLoader, Runner

from tests.test_models.adaptation_toys import student_cfg

from .test_ddp import _reports, _train

# Means over pixels, one label rule for all and nothing random: the gradient of a batch
# of both processes is then the mean of theirs.
TERMS = [
    dict(type='mmseg_xmodal.EntropyMinimization', weight=0.1),
    dict(type='mmseg_xmodal.MaskedConsistency', ratio=0.0, block=16, augment=None),
    dict(type='mmseg_xmodal.OutputAdversarial', weight=0.1, channels=4),
]
OWN: dict[str, Any] = dict(
    constructor='mmseg_xmodal.AdversarialOptimWrapperConstructor',
    discriminator=dict(type='SGD', lr=0.05, momentum=0.9),
)
WRAPPER = dict(type='mmseg_xmodal.AdaptationDistributedDataParallel')


def _write(folder: Path, name: str, batch_size: int) -> Path:
    own = name == 'own'
    terms = [*TERMS[:2], dict(TERMS[2], optimizer='own' if own else 'shared')]
    optimizer = dict(type='SGD', lr=0.05, momentum=0.9)
    values = dict(
        default_scope='mmseg',
        custom_imports=dict(
            imports=[
                'mmseg.models',
                'tests.test_models.adaptation_toys',
                'tests.integration.hooks',
            ]
        ),
        work_dir=str(folder / name),
        model=dict(
            type='mmseg_xmodal.DomainAdaptiveSegmentor',
            student=student_cfg(),
            terms=terms,
            pseudo_labels=dict(threshold=0.0),
            backward='sequential',
        ),
        model_wrapper_cfg=WRAPPER,
        # Each of two processes gets every second image: one of either domain.
        train_dataloader=dict(
            batch_size=batch_size,
            num_workers=0,
            sampler=dict(type='InfiniteSampler', shuffle=False),
            dataset=dict(type='mmseg_xmodal.AdaptToyImages'),
        ),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=4, val_interval=100),
        optim_wrapper=dict(
            optimizer=optimizer, accumulative_counts=2, **(OWN if own else {})
        ),
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', interval=4, by_epoch=False),
            logger=dict(type='LoggerHook', interval=1),
        ),
        custom_hooks=[
            dict(type='FreezeBatchNorm'),
            dict(type='CountOwnSteps'),
            dict(type='mmseg_xmodal.EMATeacherHook', when='after'),
        ],
        log_processor=dict(by_epoch=False),
        randomness=dict(seed=0),
        experiment_name=f'{name}_{batch_size}',
    )
    path = folder / f'{name}.py'
    path.write_text(''.join(f'{key} = {value!r}\n' for key, value in values.items()))
    return path


@pytest.fixture(scope='module')
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs ``shared`` and ``own`` of two processes."""
    folder = tmp_path_factory.mktemp('pair')
    _train(folder, *(_write(folder, name, 2) for name in ('shared', 'own')))
    return folder


@pytest.mark.parametrize('name', ['shared', 'own'])
def test_our_step_runs_and_equals_that_of_one_process(
    pair: Path, tmp_path: Path, name: str
) -> None:
    first, second = _reports(pair / name)
    for rank, report in enumerate((first, second)):
        assert report['wrapper'] == WRAPPER['type'].split('.')[1]
        assert report['equal']
        assert report['finite']
        assert json.loads((pair / name / f'steps{rank}.json').read_text()) == 4
    assert first['losses'] != second['losses']

    config = Config.fromfile(_write(tmp_path, name, 4))
    Runner.from_cfg(config).train()
    one, two = (
        CheckpointLoader.load_checkpoint(str(folder / name / 'iter_4.pth'), 'cpu')
        for folder in (tmp_path, pair)
    )
    # Momentum after two steps is a sum of the gradients. Equal up to the order of
    # float32 sums.
    close = dict(rtol=1e-4, atol=2e-6)
    torch.testing.assert_close(two['state_dict'], one['state_dict'], **close)
    parts = ['student', 'discriminator'] if name == 'own' else [None]
    for part in parts:
        mine, other = (
            (c['optimizer'] if part is None else c['optimizer'][part])['state']
            for c in (one, two)
        )
        assert mine.keys() == other.keys() != set()
        torch.testing.assert_close(other, mine, **close)
    assert one['ema_teacher'] == two['ema_teacher'] == dict(steps=2, moves=2)
