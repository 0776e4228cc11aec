"""The published recipes run: their data through the pipelines, and two of their epochs.

The files are few and small, the networks tiny, all else as in the configs.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS
from mmengine.runner import Runner

from tests.rgbx_layouts import LAYOUTS, SIZE

from .helpers import ROOT

CONFIGS = ROOT / 'configs'
BASES = sorted(
    path.name
    for path in (CONFIGS / '_base_/datasets').glob('*.py')
    if 'data/' in path.read_text()
    and 'vizdoom' not in path.name
    # tests/test_datasets has these
    and 'cityscapes' not in path.name
    and 'LoadTargets' not in path.read_text()
    and 'multitask_crop' not in path.read_text()
)
TINY = dict(embed_dims=(8, 16, 24, 32), depths=(1, 1, 1, 1), num_heads=(1, 2, 3, 4))
CROP = (32, 48)


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('rgbx')
    for name, write in LAYOUTS.items():
        write(root / name, 4)
    return root


def with_data(cfg: Config, data: Path) -> Config:
    """Point every data set at the small files."""
    for mode in ('train', 'val', 'test'):
        dataset = cfg[f'{mode}_dataloader'].dataset
        dataset.data_root = str(data / dataset.data_root.removeprefix('data/'))
    return cfg


@pytest.mark.parametrize('name', BASES)
def test_pipelines_run(name: str, data: Path):
    cfg = with_data(Config.fromfile(CONFIGS / '_base_/datasets' / name), data)
    for mode in ('train', 'val', 'test'):
        dataset = DATASETS.build(cfg[f'{mode}_dataloader'].dataset)
        assert len(dataset) > 0
        assert len(dataset.metainfo['classes']) == cfg.num_classes
        sample = dataset[0]
        image, labels = sample['inputs'], sample['data_samples'].gt_sem_seg.data[0]
        if mode == 'train':
            assert image.shape[1] <= cfg.crop_size[0]
            assert image.shape[2] <= cfg.crop_size[1]
            assert image.shape[1:] == labels.shape
        else:
            # The labels of a test image keep their size, whatever the image does.
            assert labels.shape == sample['data_samples'].ori_shape == SIZE
        present = set(labels.unique().tolist()) - {255}
        assert present <= set(range(cfg.num_classes))
        assert len(present) > 1
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
    views = DATASETS.build(cfg.test_dataloader.dataset)[0]
    scales = len(cfg.tta_pipeline[-1].transforms[0])
    assert len(views['inputs']) == 2 * scales
    assert {s.gt_sem_seg.data[0].shape for s in views['data_samples']} == {SIZE}
    assert len({i.shape for i in views['inputs']}) == scales


def test_every_data_base_is_tried():
    assert len(BASES) == 12


# One of each kind of recipe: schedule, groups, loss and hooks.
RECIPES = {
    'cmx/cmx_mit-b2_4xb2-500e_nyudv2-480x640.py': dict(
        backbone=dict(variant=TINY),
        decode_head=dict(in_channels=[8, 16, 24, 32], channels=16),
    ),
    'stitchfusion/stitchfusion_mit-b2-rgbd_8xb1-200e_deliver-1024x1024.py': dict(
        backbone=dict(variant=TINY),
        decode_head=dict(in_channels=[8, 16, 24, 32], channels=16),
    ),
    'geminifusion/geminifusion_mit-b3_4xb2-300e_sunrgbd-480x480.py': dict(
        backbone=dict(variant=TINY, num_heads=2),
        decode_head=dict(in_channels=[16, 32, 48, 64], channels=16),
    ),
}


def shrink(cfg: Config, tmp_path: Path) -> Config:
    for transform in cfg.train_dataloader.dataset.pipeline:
        if transform.type == 'RandomCrop':
            transform.crop_size = CROP
        if transform.type == 'RandomResize':
            transform.scale = (4 * CROP[1], CROP[0])
    cfg.model.backbone.pretrained = None
    cfg.model.data_preprocessor.size = CROP
    cfg.train_cfg.update(max_epochs=2, val_begin=1, val_interval=2)
    for mode in ('train', 'val', 'test'):
        loader = dict(num_workers=0, persistent_workers=False)
        cfg[f'{mode}_dataloader'].update(loader)
    # The stock wrapper needs a GPU for AMP.
    cfg.optim_wrapper.type = 'OptimWrapper'
    cfg.default_hooks.checkpoint.interval = 1
    cfg.default_hooks.logger.interval = 1
    cfg.work_dir = str(tmp_path)
    return cfg


@pytest.mark.slow
@pytest.mark.parametrize('name', RECIPES, ids=lambda name: name.split('/')[0])
def test_two_epochs(name: str, data: Path, tmp_path: Path):
    cfg = Config.fromfile(CONFIGS / name)
    for part in ('backbone', 'decode_head'):
        tiny = {k: v for k, v in RECIPES[name][part].items() if k != 'variant'}
        cfg.model[part].update(tiny)
    cfg.model.backbone.variant = TINY
    runner = Runner.from_cfg(shrink(with_data(cfg, data), tmp_path))
    before = {n: p.clone() for n, p in runner.model.named_parameters()}
    runner.train()
    still = {
        n
        for n, p in runner.model.named_parameters()
        if torch.equal(p, before[n].to(p.device))
    }
    # GeminiFusion's weight of the ensemble is not trained; nothing else stands still.
    assert still <= {'decode_head.alpha'}
    assert (tmp_path / 'epoch_2.pth').exists()
    assert runner.iter == 2 * len(runner.train_dataloader)
    norms = [
        (n, b)
        for n, b in runner.model.named_buffers()
        if n.startswith('decode_head') and n.endswith('running_mean')
    ]
    frozen = any(h.type.endswith('FreezeNormStatsHook') for h in cfg.custom_hooks)
    assert norms
    assert all((not b.any()) == frozen for _, b in norms)
