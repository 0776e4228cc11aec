"""FolderIoUMetric: the stock results, and no prediction overwritten."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from mmseg.evaluation import IoUMetric
from PIL import Image

from mmseg_xmodal.evaluation import FolderIoUMetric
from mmseg_xmodal.registry import METRICS

PATHS = ['data/sun/test/a/1.png', 'data/fog/test/a/1.png', '/x/fog/test/b/1.png']


def samples() -> list[dict]:
    generator = torch.Generator().manual_seed(0)
    found = []
    for path in PATHS:
        pred, truth = torch.randint(0, 3, (2, 1, 4, 5), generator=generator)
        fields = dict(pred_sem_seg=dict(data=pred), gt_sem_seg=dict(data=truth))
        found.append(dict(fields, img_path=path))
    return found


def evaluate(metric: IoUMetric) -> dict:
    metric.dataset_meta = dict(classes=('a', 'b', 'c'))
    metric.process(None, samples()[:2])
    metric.process(None, samples()[2:])
    return metric.evaluate(len(PATHS))


def test_every_prediction_is_kept_below_its_folders(tmp_path):
    stock = evaluate(IoUMetric(output_dir=str(tmp_path / 'stock')))
    assert len(list((tmp_path / 'stock').rglob('*.png'))) == 1
    cfg = dict(type='mmseg_xmodal.FolderIoUMetric', keep_folders=3)
    metric = METRICS.build(dict(cfg, output_dir=str(tmp_path / 'ours')))
    assert evaluate(metric) == stock
    assert metric.output_dir == str(tmp_path / 'ours')
    written = {
        str(p.relative_to(tmp_path / 'ours')): p
        for p in tmp_path.rglob('*.png')
        if 'ours' in p.parts
    }
    names = ['sun/test/a/1.png', 'fog/test/a/1.png', 'fog/test/b/1.png']
    assert sorted(written) == sorted(str(Path(name)) for name in names)
    for name, sample in zip(names, samples(), strict=True):
        pred = sample['pred_sem_seg']['data'][0].numpy()
        np.testing.assert_array_equal(np.array(Image.open(written[name])), pred)


def test_without_output_it_is_the_stock_metric():
    assert evaluate(FolderIoUMetric(9)) == evaluate(IoUMetric())


def test_refuses_what_it_cannot_do(tmp_path):
    with pytest.raises(ValueError, match='keep_folders=0, expected 1 or more'):
        FolderIoUMetric(0)
    metric = FolderIoUMetric(5, output_dir=str(tmp_path))
    with pytest.raises(ValueError, match=r"keep_folders=5, .* 'data/sun/test/a/1.png'"):
        evaluate(metric)
    assert metric.output_dir == str(tmp_path)
    climbing = dict(samples()[0], img_path='data/../../1.png')
    metric = FolderIoUMetric(2, output_dir=str(tmp_path))
    metric.dataset_meta = dict(classes=('a', 'b', 'c'))
    with pytest.raises(ValueError, match='named folders'):
        metric.process(None, [climbing])
