"""OntologyIoUMetric against confusion counts made by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmseg.datasets import CityscapesDataset
from mmseg.evaluation import IoUMetric

from mmseg_xmodal.evaluation import OntologyIoUMetric
from mmseg_xmodal.structures import DomainOntology

NAMES = CityscapesDataset.METAINFO['classes']
LOST = [9, 14, 16]


def sample(pred: torch.Tensor, truth: torch.Tensor) -> dict:
    fields = dict(pred_sem_seg=dict(data=pred[None]), gt_sem_seg=dict(data=truth[None]))
    return dict(fields, img_path='a.png')


def evaluate(metric: IoUMetric, pairs, names=NAMES) -> dict:
    metric.dataset_meta = dict(classes=names)
    for pred, truth in pairs:
        metric.process(None, [sample(pred, truth)])
    return metric.evaluate(len(pairs))


def pairs(lost_predicted: bool) -> list:
    """Two maps of all classes, where predictions are right in most places."""
    found = []
    for seed in (0, 1):
        rng = np.random.default_rng(seed)
        truth = rng.integers(0, 20, (40, 50))
        pred = np.where(
            rng.random((40, 50)) < 0.7, truth, rng.integers(0, 19, (40, 50))
        )
        pred[pred == 19] = 3
        if not lost_predicted:
            pred[np.isin(pred, LOST)] = 8
        truth[truth == 19] = 255
        found.append((torch.from_numpy(pred), torch.from_numpy(truth).to(torch.uint8)))
    return found


def iou(pred: np.ndarray, truth: np.ndarray, number: int) -> float:
    both = ((pred == number) & (truth == number)).sum()
    return both / ((pred == number) | (truth == number)).sum()


@pytest.mark.parametrize('dropped', ['ignore', 'false_positive'])
def test_mean_over_the_shared_classes(dropped):
    found = pairs(lost_predicted=True)
    got = evaluate(OntologyIoUMetric('synthia16', dropped), found)
    pred, truth = (np.stack([p[i].numpy() for p in found]) for i in (0, 1))
    counted = truth != 255
    if dropped == 'ignore':
        counted &= ~np.isin(truth, LOST)
    pred, truth = pred[counted], truth[counted]
    expected = np.mean([iou(pred, truth, c) for c in range(19) if c not in LOST])
    assert got['mIoU'] == pytest.approx(100 * expected, abs=0.005)  # it rounds


def test_false_positives_are_the_published_formula():
    """mIoU over 16 = mIoU over 19 x 19 / 16, where the three are never predicted."""
    found = pairs(lost_predicted=False)
    got = evaluate(OntologyIoUMetric('synthia16', 'false_positive'), found)
    whole = evaluate(IoUMetric(), found)
    # Both are rounded to two places.
    assert got['mIoU'] == pytest.approx(whole['mIoU'] * 19 / 16, abs=0.012)
    ignored = evaluate(OntologyIoUMetric('synthia16'), found)
    assert ignored['mIoU'] > got['mIoU'] + 1


def test_reduced_data_with_the_stock_metric_agree():
    ontology = DomainOntology.build('synthia16')
    found = pairs(lost_predicted=False)
    reduced = [
        tuple(torch.from_numpy(ontology.reduce_labels(x.numpy())) for x in pair)
        for pair in found
    ]
    stock = evaluate(IoUMetric(), reduced, ontology.classes)
    assert evaluate(OntologyIoUMetric('synthia16'), found) == stock
    assert evaluate(OntologyIoUMetric('synthia16'), reduced, ontology.classes) == stock


def test_merged_classes():
    pred, truth = torch.tensor([[0, 1, 2, 2]]), torch.tensor([[1, 0, 0, 2]])
    names = ['person', 'rider', 'sky']
    renamed = dict(person='human', rider='human', sky=None)
    two = dict(classes=['human', 'road'], map=renamed)
    got = evaluate(OntologyIoUMetric(two), [(pred, truth)], names)
    assert got['mIoU'] == pytest.approx(66.67)


def test_what_it_refuses():
    with pytest.raises(ValueError, match="dropped='skip'"):
        OntologyIoUMetric('synthia16', 'skip')
    with pytest.raises(ValueError, match=r"becomes of \['boat'\]"):
        evaluate(OntologyIoUMetric('synthia16'), pairs(True), ['boat'])
    with pytest.raises(ValueError, match='predictions up to 18, the data set 16'):
        evaluate(OntologyIoUMetric('synthia16'), pairs(True), NAMES[:16])
