"""Predictions as labels to train on, against the rule by hand."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
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
    (tmp_path / 'out/.pseudo_label_raw/confidence/a.png').unlink()
    with pytest.raises(OSError, match='a folder that all processes share'):
        metric.evaluate(1)
    for wrong in (dict(drop=1.0), dict(cap=1.5), dict(drop=-0.1)):
        with pytest.raises(ValueError, match='expected a share in'):
            writer(tmp_path, **wrong)
    metric = writer(tmp_path, img_root=str(tmp_path / 'elsewhere'))
    with pytest.raises(ValueError, match='does not lie in img_root'):
        metric.process({}, [sample(tmp_path, 'a.png', torch.zeros(3, 2, 2))])


def test_what_was_there_stays(tmp_path: Path) -> None:
    """Also a folder with the name that the intermediate files once had."""
    kept = tmp_path / 'out/raw/mine.txt'
    kept.parent.mkdir(parents=True)
    kept.write_text('mine')
    metric = writer(tmp_path)
    for _ in range(2):  # twice, as in validation
        metric.process({}, [sample(tmp_path, 'a.png', torch.rand(3, 2, 2))])
        metric.evaluate(1)
        found = {p.name for p in (tmp_path / 'out').iterdir()}
        assert found == {'raw', 'a.png', 'thresholds.json'}
    assert kept.read_text() == 'mine'


@pytest.mark.parametrize('kind', ['folder', 'file'])
def test_a_foreign_folder_is_refused(tmp_path: Path, kind: str) -> None:
    foreign = tmp_path / 'out/.pseudo_label_raw'
    file = foreign / 'label/mine.txt' if kind == 'folder' else foreign
    file.parent.mkdir(parents=True)
    file.write_text('mine')
    metric = writer(tmp_path)
    with pytest.raises(
        ValueError, match=r'pseudo_label_raw.*not made by .*another out'
    ):
        metric.process({}, [sample(tmp_path, 'a.png', torch.rand(3, 2, 2))])
    assert file.read_text() == 'mine'
    assert [p.name for p in (tmp_path / 'out').iterdir()] == ['.pseudo_label_raw']


def test_processes_share_the_folder_and_what_a_killed_run_left(tmp_path: Path) -> None:
    killed = writer(tmp_path)
    killed.process({}, [sample(tmp_path, 'old.png', torch.rand(3, 2, 2))])
    first, second = writer(tmp_path), writer(tmp_path)
    first.process({}, [sample(tmp_path, 'a.png', torch.rand(3, 2, 2))])
    second.process({}, [sample(tmp_path, 'b.png', torch.rand(3, 2, 2))])
    first.results += second.results  # as gathering does
    first.evaluate(2)
    found = {p.name for p in (tmp_path / 'out').iterdir()}
    assert found == {'a.png', 'b.png', 'thresholds.json'}


def test_images_are_not_replaced(tmp_path: Path) -> None:
    images = tmp_path / 'images'
    images.mkdir()
    (tmp_path / 'link').symlink_to(images)
    for same in (images, tmp_path / 'link', tmp_path / 'out/../images'):
        with pytest.raises(
            ValueError, match='is img_root.*replace the images.*another'
        ):
            writer(tmp_path, out_dir=str(same))
    metric = writer(tmp_path)
    metric.out_dir = images  # by a test loop with one folder per subset
    with pytest.raises(ValueError, match=r'is img_root'):
        metric.process({}, [sample(tmp_path, 'a.png', torch.zeros(3, 2, 2))])
    assert not list(images.iterdir())


def test_more_classes_than_bytes_are_refused_at_once(tmp_path: Path) -> None:
    metric = writer(tmp_path)
    most = torch.zeros(255, 1, 2)
    most[254, 0, 0] = most[3, 0, 1] = 9
    metric.process({}, [sample(tmp_path, 'a.png', most)])
    file = tmp_path / 'out/.pseudo_label_raw/label/a.png'
    assert cv2.imread(str(file), cv2.IMREAD_UNCHANGED).tolist() == [[254, 3]]
    with pytest.raises(ValueError, match='256 classes, expected at most 255'):
        metric.process({}, [sample(tmp_path, 'b.png', torch.zeros(256, 1, 2))])


def test_processes_claim_the_folder_at_the_same_time(tmp_path: Path) -> None:
    for turn in range(20):
        metrics = [writer(tmp_path, out_dir=str(tmp_path / f'{turn}')) for _ in '12345']
        start = threading.Barrier(5)

        def claim(metric: Any, start: threading.Barrier = start) -> None:
            start.wait()
            metric._claim_raw()

        with ThreadPoolExecutor(5) as pool:
            list(pool.map(claim, metrics))
        found = [p.name for p in (tmp_path / f'{turn}').iterdir()]
        assert found == ['.pseudo_label_raw']
