"""Offline self-training through mmseg's own tools, as docs/adaptation.md says.

Two networks make an ensemble, ``test.py`` writes its labels of unlabelled images, and
``train.py`` learns from them.
"""

from __future__ import annotations

import re
from pathlib import Path

import cv2

from .conftest import Trained
from .helpers import ROOT, run_python, run_tool, write_config

ENSEMBLE = """
model = dict(
    _delete_=True,
    type='mmseg_xmodal.SegmentorEnsemble',
    members=[_base_.model, _base_.model],
)
test_dataloader = dict(
    dataset=dict(
        data_prefix=dict(seg_map_path=None),
        pipeline=[t for t in _base_.test_pipeline if t.type != 'LoadAnnotations'],
    )
)
test_evaluator = dict(
    _delete_=True, type='mmseg_xmodal.PseudoLabelWriter', out_dir=labels, img_root=root
)
"""
TRAINING = """
model = dict(
    _delete_=True,
    type='mmseg_xmodal.DomainAdaptiveSegmentor',
    student=_base_.model,
    terms=[dict(type='mmseg_xmodal.StoredPseudoLabels')],
)
source = _base_.train_dataloader.dataset
loaded = dict(type='mmseg_xmodal.LoadPseudoLabels', folder=labels, img_root=root)
key = 'gt_pseudo_labels'
target_pipeline = [
    source.pipeline[0],
    loaded,
    dict(type='RandomCrop', crop_size=_base_.crop_size),
    dict(type='mmseg_xmodal.PackXModalInputs', raster_keys=[key]),
]
target = dict(source, pipeline=target_pipeline)
target['data_prefix'] = dict(rgb='rgb/val', depth='depth/val', seg_map_path=None)
train_dataloader = dict(
    batch_size=4,
    sampler=dict(
        _delete_=True,
        type='mmseg_xmodal.MultiSourceSampler',
        batch_size=4,
        source_ratio=[1, 1],
    ),
    dataset=dict(
        _delete_=True,
        type='mmseg_xmodal.MultiSourceDataset',
        names=['source', 'target'],
        datasets=[source, target],
    ),
)
"""


def _config(base: Path, name: str, body: str, root: Path) -> Path:
    path = base.with_name(f'{name}.py')
    values = dict(
        _base_=[base.name],
        work_dir=str(base.parent / name),
        labels=str(base.parent / 'labels'),
        root=str(root / 'rgb' / 'val'),
    )
    path.write_text('\n'.join(f'{k} = {v!r}' for k, v in values.items()) + body)
    return path


def test_ensemble_labels_and_self_training(
    trained: Trained, rgbd_root: Path, tmp_path: Path
):
    joined = tmp_path / 'joined.pth'
    tool = ROOT / 'tools/model_converters/ensemble.py'
    files = [str(trained.checkpoint)] * 2 + [str(joined)]
    run_python(tool, *files)

    base = write_config(
        tmp_path, 'plain', rgbd_root, train_cfg=dict(max_iters=3, val_interval=3)
    )
    log = run_tool(
        'test.py', _config(base, 'ensemble', ENSEMBLE, rgbd_root), str(joined)
    )
    (kept,) = re.findall(r'pseudo/kept: (\S+)', log)
    assert 20 < float(kept) < 100
    images = sorted((rgbd_root / 'rgb/val').iterdir())
    labels = [tmp_path / 'labels' / f'{image.stem}.png' for image in images]
    rasters = [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in labels]
    size = cv2.imread(str(images[0])).shape[:2]
    assert all(raster.shape == size for raster in rasters)
    assert any((raster == 255).any() for raster in rasters)

    config = _config(base, 'training', TRAINING, rgbd_root)
    log = run_tool(
        'train.py', config, '--cfg-options', 'default_hooks.logger.interval=1'
    )
    values = [float(x) for x in re.findall(r' stored\.decode\.loss_ce: (\S+)', log)]
    assert len(values) == 3
    assert all(value > 0 for value in values), values
