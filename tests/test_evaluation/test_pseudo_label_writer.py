"""Predictions as labels to train on, against the rule by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmseg.registry import METRICS

from mmseg_xmodal.evaluation.pseudo_label_writer import class_thresholds

CLASSES = ('road', 'sky', 'car')


def writer(tmp_path: Path, **kwargs: Any) -> Any:
    cfg = dict(out_dir=str(tmp_path / 'out'), img_root=str(tmp_path / 'images'))
    metric = METRICS.build(
        dict(type='mmseg_xmodal.PseudoLabelWriter', **(cfg | kwargs))
    )
    metric.dataset_meta = dict(classes=CLASSES)
    return metric


def sample(tmp_path: Path, name: str, logits: torch.Tensor) -> dict:
    label = logits.argmax(0, keepdim=True) if len(logits) > 1 else logits > 0.5
    return dict(
        img_path=str(tmp_path / 'images' / name),
        seg_logits=dict(data=logits),
        pred_sem_seg=dict(data=label.long()),
    )


def test_each_class_keeps_its_surest_pixels(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    names = ['town/a.jpg', 'town/b.jpg', 'c.jpg']
    logits = {n: 2 * torch.randn(3, 20, 30, generator=generator) for n in names}
    for one in logits.values():
        one[1] += 6  # so sure of the sky that the cap decides
    metric = writer(tmp_path)
    metric.process({}, [sample(tmp_path, n, logits[n]) for n in names[:2]])
    metric.process({}, [sample(tmp_path, names[2], logits[names[2]])])
    found = metric.evaluate(len(names))

    p = torch.stack([one.softmax(0) for one in logits.values()])
    confidence, label = (part.numpy() for part in p.max(dim=1))
    thresholds, kept = {}, np.zeros(label.shape, bool)
    for i, name in enumerate(CLASSES):
        own = np.sort(confidence[label == i])
        thresholds[name] = min(own[round(0.66 * len(own))], 0.9)
        kept |= (label == i) & (confidence >= thresholds[name])
    assert thresholds['sky'] == 0.9
    assert max(thresholds['road'], thresholds['car']) < 0.9
    text = json.loads((tmp_path / 'out/thresholds.json').read_text())
    assert text == pytest.approx(thresholds, abs=1e-4)
    expected = np.where(kept, label, 255)
    files = ['town/a.png', 'town/b.png', 'c.png']
    got = [cv2.imread(str(tmp_path / 'out' / f), cv2.IMREAD_UNCHANGED) for f in files]
    # One pixel of a class may lie within a step of its threshold.
    assert (np.stack(got) != expected).sum() <= 3
    assert found['pseudo/kept'] == pytest.approx(100 * kept.mean(), abs=0.2)
    share = 100 * kept[label == 1].mean()
    assert found['pseudo/kept.sky'] == pytest.approx(share, abs=0.2)
    left = [p for p in (tmp_path / 'out').rglob('*') if p.is_file()]
    assert len(left) == 4  # nothing but labels and thresholds


def test_binary_predictions(tmp_path: Path) -> None:
    metric = writer(tmp_path, drop=0.0, cap=0.0)
    metric.dataset_meta = dict(classes=('no', 'yes'))
    sure = torch.tensor([[[0.1, 0.9, 0.6, 0.4]]])
    metric.process({}, [sample(tmp_path, 'a.png', sure)])
    assert metric.evaluate(1)['pseudo/kept'] == 100
    got = cv2.imread(str(tmp_path / 'out/a.png'), cv2.IMREAD_UNCHANGED)
    assert got.tolist() == [[0, 1, 1, 0]]


def test_thresholds() -> None:
    counts = np.zeros((3, 101), np.int64)
    counts[0, [20, 50, 70]] = 2, 1, 1
    counts[1, 95] = 10
    assert class_thresholds(counts, 0.5, 0.9).tolist() == [50, 90, 90]
    assert class_thresholds(counts, 0.0, 0.9).tolist() == [20, 90, 90]
    assert class_thresholds(counts, 0.99, 1.0).tolist() == [70, 95, 100]


def test_bad_input(tmp_path: Path) -> None:
    metric = writer(tmp_path)
    metric.process({}, [sample(tmp_path, 'a.png', torch.zeros(3, 2, 2))])
    (tmp_path / 'out/raw/confidence/a.png').unlink()
    with pytest.raises(OSError, match='a folder that all processes share'):
        metric.evaluate(1)
    for wrong in (dict(drop=1.0), dict(cap=1.5), dict(drop=-0.1)):
        with pytest.raises(ValueError, match='expected a share in'):
            writer(tmp_path, **wrong)
    metric = writer(tmp_path, img_root=str(tmp_path / 'elsewhere'))
    with pytest.raises(ValueError, match='does not lie in img_root'):
        metric.process({}, [sample(tmp_path, 'a.png', torch.zeros(3, 2, 2))])
