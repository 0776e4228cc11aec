"""Domain adaptation through mmseg's own tools, written as docs/adaptation.md says.

The tiny CMX learns on labelled images of one split and unlabelled ones of the other.
"""

from __future__ import annotations

import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from mmseg.apis import init_model

from .conftest import Trained
from .helpers import ROOT, run_tool, write_config
from .predictions import PLAIN_VIEWS, check_views
from .test_resume import RANDOM_STATE, _load, assert_same_training_state
from .test_tools import _metrics, _test, _validated

LENGTH, SAVED, KILLED = 6, 3, 5  # iterations
EMA = dict(type='mmseg_xmodal.EMATeacherHook', momentum=0.9)
# What the plain run would have, too. Drop path makes torch's random state matter.
PLAIN: dict[str, Any] = dict(
    train_dataloader=dict(num_workers=2),
    train_cfg=dict(max_iters=LENGTH, val_interval=LENGTH),
    default_hooks=dict(checkpoint=dict(interval=SAVED), logger=dict(interval=1)),
    optim_wrapper=dict(optimizer=dict(lr=3e-3)),
    model=dict(backbone=dict(drop_path_rate=0.3)),
)
# Of four classes, by a teacher that has hardly learned: some pixels are above the
# threshold. Anchored at stride 4, where the small boxes of the images fill cells.
ADAPTED = """
model = dict(
    _delete_=True,
    type='mmseg_xmodal.DomainAdaptiveSegmentor',
    student=_base_.model,
    anchor='copy',
    pseudo_labels=dict(threshold=0.4),
    terms=[
        dict(type='mmseg_xmodal.ClassMixSelfTraining'),
        dict(type='mmseg_xmodal.FeatureAnchor', classes=[1, 2, 3], feature_index=0),
        dict(type='mmseg_xmodal.MaskedConsistency', block=16),
    ],
)
source = _base_.train_dataloader.dataset
unlabelled = [t for t in source.pipeline if t.type != 'LoadAnnotations']
unlabelled[2] = dict(type='RandomCrop', crop_size=_base_.crop_size)
target = dict(source, pipeline=unlabelled)
target['data_prefix'] = dict(rgb='rgb/val', depth='depth/val', seg_map_path=None)
train_dataloader = dict(
    batch_size=4,
    sampler=dict(
        _delete_=True,
        type='mmseg_xmodal.MultiSourceSampler',
        batch_size=4,
        source_ratio=[1, 1],
        samplers=[
            dict(
                type='mmseg_xmodal.RareClassSampler',
                stats=stats,
                temperature=0.2,
                min_pixels=100,
            ),
            None,
        ],
    ),
    dataset=dict(
        _delete_=True,
        type='mmseg_xmodal.MultiSourceDataset',
        names=['source', 'target'],
        datasets=[source, target],
    ),
)
"""


def _config(folder: Path, name: str, root: Path, *hooks: dict) -> Path:
    """Write the config ``name``, and the plain one that it adapts, into a folder."""
    plain = write_config(folder, 'plain', root, **PLAIN)
    values = dict(
        _base_=[plain.name],
        work_dir=str(folder / name),
        stats=str(folder / 'class_stats.json'),
        custom_hooks=[RANDOM_STATE, EMA, *hooks],
    )
    path = folder / f'{name}.py'
    lines = [f'{key} = {value!r}\n' for key, value in values.items()]
    path.write_text(''.join(lines) + ADAPTED)
    return path


@pytest.fixture(scope='module')
def adapted(tmp_path_factory: pytest.TempPathFactory, rgbd_root: Path) -> Trained:
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp('adaptation')
    config = _config(folder, 'whole', rgbd_root)
    log = run_tool('train.py', config)
    work_dir = folder / 'whole'
    return Trained(config, work_dir, work_dir / f'iter_{LENGTH}.pth', log)


def test_terms_train_teacher_follows_anchor_stays(adapted: Trained):
    for name in (
        'source.decode.loss_ce',
        'mix.decode.loss_ce',
        'anchor.loss_distance',
        'masked.decode.loss_ce',
    ):
        values = [float(x) for x in re.findall(rf' {name}: (\S+)', adapted.log)]
        assert len(values) == LENGTH, name
        assert all(0 < value < math.inf for value in values), (name, values)
    assert (adapted.config.parent / 'class_stats.json').is_file()
    state = _load(adapted.checkpoint)['state_dict']
    moving = ('proj.weight', 'running_mean')
    keys = [k for k in state if k.startswith('anchor.') and k.endswith(moving)]
    assert {key.rpartition('.')[2] for key in keys} == {'weight', 'running_mean'}
    for key in keys:
        name = key.replace('anchor', 'backbone', 1)
        student, teacher = state[f'student.{name}'], state[f'teacher.{name}']
        assert not torch.equal(student, teacher), name
        assert not torch.equal(student, state[key]), name
        if name.endswith('running_mean'):
            assert teacher.any(), name
            # As initialised: the anchor never saw a batch in training mode.
            assert not state[key].any(), name


def test_killed_run_resumes_exactly(adapted: Trained, rgbd_root: Path, tmp_path: Path):
    killer = dict(type='KillAtIteration', iteration=KILLED)
    cut = _config(tmp_path, 'cut', rgbd_root, killer)
    run_tool('train.py', cut, killed=True)
    last = (tmp_path / 'cut' / 'last_checkpoint').read_text()
    assert last.endswith(f'iter_{SAVED}.pth')
    again = _config(tmp_path, 'again', rgbd_root)
    log = run_tool('train.py', again, '--work-dir', tmp_path / 'cut', '--resume')
    assert 'random states restored' in log
    assert f'iter_{SAVED}.pth' in log
    resumed = tmp_path / 'cut' / f'iter_{LENGTH}.pth'
    # Of student, teacher and anchor, optimiser, states of python and torch.
    assert_same_training_state(resumed, adapted.checkpoint)
    one, two = _load(resumed), _load(adapted.checkpoint)
    assert one['ema_teacher'] == two['ema_teacher'] == dict(steps=LENGTH, moves=LENGTH)
    # What mixes and distorts images draws from numpy.
    for a, b in zip(one['random_state'], two['random_state'], strict=True):
        assert torch.equal(a['numpy'][0], b['numpy'][0])
        assert a['numpy'][1:] == b['numpy'][1:]


def test_test_repeats_the_validation(adapted: Trained, tmp_path: Path):
    metrics = _test(adapted, tmp_path)
    assert metrics['mIoU'] == pytest.approx(_validated(adapted), abs=1e-4)


def test_tta(adapted: Trained, tmp_path: Path):
    check_views(adapted.config, adapted.checkpoint)
    metrics = _test(adapted, tmp_path, '--tta', '--cfg-options', *PLAIN_VIEWS)
    assert metrics['mIoU'] == pytest.approx(_validated(adapted), abs=1e-4)


def test_checkpoint_for_the_plain_config(
    adapted: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """By the lines of the document."""
    text = (ROOT / 'docs/adaptation.md').read_text().split('## Checkpoints')[1]
    lines = text.split('```python\n')[1].split('```')[0]
    shutil.copy(adapted.checkpoint, tmp_path / 'iter_1000.pth')
    monkeypatch.chdir(tmp_path)
    exec(lines, {})
    plain = _load(tmp_path / 'plain.pth')['state_dict']
    model = init_model(str(adapted.config.parent / 'plain.py'), device='cpu')
    model.load_state_dict(plain, strict=True)
    student = _load(adapted.checkpoint)['state_dict']
    for name, value in plain.items():
        assert torch.equal(value, student[f'student.{name}']), name


def test_norms_adapt_at_test_time(adapted: Trained, tmp_path: Path):
    log = run_tool(
        'test.py',
        adapted.config,
        adapted.checkpoint,
        '--work-dir',
        tmp_path,
        '--cfg-options',
        'test_cfg.type=mmseg_xmodal.TestTimeAdaptLoop',
        'test_cfg.method=norm',
    )
    (norms,) = re.findall(r'norm on EncoderDecoder: (\d+) batch norms', log)
    assert int(norms) > 0
    metrics = _metrics(tmp_path)
    assert metrics['mIoU'] > 0
    assert metrics['mIoU'] != pytest.approx(_validated(adapted), abs=1e-4)
