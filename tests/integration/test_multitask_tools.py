"""A multi-task model through mmseg's own tools, with RGB in, classes and depth out."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from .conftest import Trained
from .helpers import run_tool, write_config
from .predictions import check_slide, check_views
from .test_resume import RANDOM_STATE, assert_same_training_state
from .test_tools import _metrics

RGB = dict(
    rgb=dict(channels=3, mean=[120.0] * 3, std=[60.0] * 3, order='rgb'),
)
TINY = dict(embed_dims=(8, 16, 24, 32), depths=(1, 1, 1, 1), num_heads=(1, 2, 3, 4))
WIDTHS = [8, 16, 24, 32]
LOAD = [
    dict(type='mmseg_xmodal.LoadModalities', modalities=RGB),
    dict(type='LoadAnnotations'),
    dict(type='mmseg_xmodal.LoadTargets'),
]
PACK = dict(type='mmseg_xmodal.PackXModalInputs')
TRAIN = [
    *LOAD,
    dict(
        type='mmseg_xmodal.XModalRandomResize',
        scale=(96, 64),
        ratio_range=(0.75, 1.5),
        keep_ratio=True,
    ),
    dict(type='mmseg_xmodal.XModalRandomCrop', crop_size=(64, 96)),
    dict(type='mmseg_xmodal.XModalRandomFlip', prob=0.5),
    PACK,
]
VIEWS = [
    [dict(type='Resize', scale_factor=f, keep_ratio=True) for f in (1.0, 1.25)],
    [dict(type='RandomFlip', prob=p, direction='horizontal') for p in (0.0, 1.0)],
    [LOAD[1]],
    [LOAD[2]],
    [PACK],
]
TARGETS = dict(depth=dict(kind='depth', scale=0.05, invalid=0, unit='m'))
EVALUATOR = [
    dict(type='IoUMetric', iou_metrics=['mIoU', 'mFscore']),
    dict(type='mmseg_xmodal.DepthMapMetric'),
]
MODEL: dict[str, Any] = dict(
    type='mmseg_xmodal.MultiTaskEncoderDecoder',
    data_preprocessor=dict(
        _delete_=True,
        type='mmseg_xmodal.ModalityPreprocessor',
        modalities=RGB,
        size=(64, 96),
    ),
    backbone=dict(
        _delete_=True, type='mmseg_xmodal.MixTransformer', variant=TINY, in_channels=3
    ),
    task_heads=dict(
        depth=dict(type='mmseg_xmodal.DepthHead', in_channels=WIDTHS, max_depth=20.0)
    ),
    balancer=dict(type='mmseg_xmodal.UncertaintyWeighting'),
)
# A rule and a balancer that both have a state to lose.
SETTINGS: dict[str, Any] = dict(
    train_cfg=dict(max_iters=8, val_interval=4),
    default_hooks=dict(checkpoint=dict(interval=4), logger=dict(interval=2)),
    optim_wrapper=dict(
        type='mmseg_xmodal.GradientRuleOptimWrapper',
        rule=dict(type='mmseg_xmodal.GradNorm'),
        gram_space='features',
    ),
    model=MODEL,
    tta_pipeline=[LOAD[0], dict(type='TestTimeAug', transforms=VIEWS)],
    val_evaluator=EVALUATOR,
    test_evaluator=EVALUATOR,
)


def _config(folder: Path, name: str, root: Path, **changes: Any) -> Path:
    def loader(split: str, pipeline: list) -> dict[str, Any]:
        dataset = dict(
            _delete_=True,
            type='mmseg_xmodal.MultiTaskDataset',
            data_root=str(root),
            modalities=RGB,
            targets=TARGETS,
            metainfo=dict(classes=('far', 'near', 'red', 'hole')),
            data_prefix=dict(seg_map_path='labels'),
            split=split,
            pipeline=pipeline,
        )
        return dict(dataset=dataset)

    return write_config(
        folder,
        name,
        root,
        train_dataloader=loader('train', TRAIN),
        val_dataloader=loader('val', [*LOAD, PACK]),
        test_dataloader=loader('val', [*LOAD, PACK]),
        **{**SETTINGS, **changes},
    )


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory, rgbd_root: Path) -> Trained:
    """The run ``whole``."""
    folder = tmp_path_factory.mktemp('multitask')
    hooks = [RANDOM_STATE, dict(type='mmseg_xmodal.TaskBalanceHook', interval=2)]
    config = _config(folder, 'whole', rgbd_root, custom_hooks=hooks)
    log = run_tool('train.py', config)
    return Trained(config, folder / 'whole', folder / 'whole' / 'iter_8.pth', log)


def test_a_killed_run_resumes_exactly(
    trained: Trained, rgbd_root: Path, tmp_path: Path
):
    killer = [RANDOM_STATE, dict(type='KillAtIteration', iteration=6)]
    cut = _config(tmp_path, 'cut', rgbd_root, custom_hooks=killer)
    run_tool('train.py', cut, killed=True)
    again = _config(tmp_path, 'again', rgbd_root, custom_hooks=[RANDOM_STATE])
    run_tool('train.py', again, '--work-dir', tmp_path / 'cut', '--resume')
    resumed, whole = tmp_path / 'cut' / 'iter_8.pth', trained.checkpoint
    assert_same_training_state(resumed, whole)
    states = [
        torch.load(path, weights_only=False)['optimizer']['gradient_rule']['state']
        for path in (resumed, whole)
    ]
    assert states[0]
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


@pytest.mark.parametrize('mode', ['whole', 'slide', 'tta'])
def test_test_and_panels(trained: Trained, tmp_path: Path, mode: str):
    options = ['--work-dir', tmp_path, '--show-dir', tmp_path / 'show']
    if mode == 'slide':
        options += ['--cfg-options', 'model.test_cfg.mode=slide']
        options += ['model.test_cfg.crop_size=(48,64)', 'model.test_cfg.stride=(32,32)']
    if mode == 'tta':
        options.append('--tta')
    run_tool('test.py', trained.config, trained.checkpoint, *options)
    metrics = _metrics(tmp_path)
    for name in ('mIoU', 'depth/rmse'):
        validated = float(re.findall(rf'{name}: ([\d.]+)', trained.log)[-1])
        assert math.isfinite(metrics[name])
        same = metrics[name] == pytest.approx(validated, abs=1e-4)
        assert same == (mode == 'whole'), name
    assert list((tmp_path / 'show').rglob('*.png'))


def test_slide_inference(trained: Trained):
    check_slide(trained.config, trained.checkpoint)


def test_merged_views(trained: Trained):
    check_views(trained.config, trained.checkpoint)
