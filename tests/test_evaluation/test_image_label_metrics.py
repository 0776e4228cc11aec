"""Metrics of image labels: by hand, and against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from mmengine.structures import LabelData

from mmseg_xmodal.evaluation import ImageLabelMetric, MultiLabelMetric
from mmseg_xmodal.evaluation.image_labels import average_precision

from .samples import evaluate, sample


def image(label, score):
    label, score = torch.tensor(label), torch.tensor(score).float()
    return sample(
        gt_label=LabelData(label=label),
        pred_label=LabelData(score=score, label=(score > 0.5).long()),
    )


def test_average_precision_by_hand():
    score = np.array([0.9, 0.8, 0.7, 0.6])
    positive = np.array([True, False, True, False])
    # Precision 1/1 at the first true one, 2/3 at the second.
    assert average_precision(score, positive) == pytest.approx(100 * (1 + 2 / 3) / 2)
    assert average_precision(score, ~positive) == pytest.approx(
        100 * (1 / 2 + 2 / 4) / 2
    )
    assert math.isnan(average_precision(score, np.zeros(4, bool)))
    # Equal scores enter together, in whatever order they come.
    same = np.full(4, 0.5)
    assert average_precision(same, positive) == pytest.approx(50)
    assert average_precision(same, positive[::-1]) == pytest.approx(50)


def test_average_precision_against_a_loop():
    rng = np.random.default_rng(0)
    score = rng.integers(0, 12, 60) / 12
    positive = rng.random(60) < 0.3
    precisions = []
    for s, true in zip(score, positive, strict=True):
        if true:
            at_least = score >= s
            precisions.append(positive[at_least].sum() / at_least.sum())
    want = 100 * np.mean(precisions)
    assert average_precision(score, positive) == pytest.approx(want, rel=1e-12)


def test_means_over_classes_and_unknown_labels():
    images = [
        image([1.0, 0.0, -1.0], [0.9, 0.6, 0.9]),
        image([0.0, 1.0, 0.0], [0.8, 0.7, 0.1]),
        image([1.0, 1.0, -1.0], [0.7, 0.2, 0.9]),
    ]
    got = evaluate(MultiLabelMetric(classwise=True), images)
    # Class 0: true at ranks 1 and 3. Class 1: .7 true, .6 false, .2 true.
    first, second = 100 * (1 + 2 / 3) / 2, 100 * (1 + 2 / 3) / 2
    assert got['cls/AP_0'] == pytest.approx(first)
    assert got['cls/AP_1'] == pytest.approx(second)
    # Nobody is known to be of class 2: no average precision, no false alarm.
    assert math.isnan(got['cls/AP_2'])
    assert got['cls/mAP'] == pytest.approx((first + second) / 2)
    # Class 0: 2 right of 3 predicted, 2 true. Class 1: 1 right of 2 predicted, 2 true.
    f1 = (100 * 4 / 5, 100 * 2 / 4)
    assert got['cls/CF1'] == pytest.approx(sum(f1) / 2)
    assert got['cls/OF1'] == pytest.approx(100 * 6 / 9)
    strict = evaluate(MultiLabelMetric(threshold=0.75), images)
    # Class 0: .9 right, .8 wrong, .7 missed; class 1: nothing predicted.
    assert strict['cls/CF1'] == pytest.approx((100 * 2 / 4 + 0) / 2)


def test_names_come_from_the_data_set_or_the_config():
    images = [image([1.0, 0.0], [0.9, 0.1])]
    meta = dict(targets=dict(cls=dict(classes=('cat', 'dog'))))
    got = evaluate(MultiLabelMetric(classwise=True), images, **meta)
    assert got['cls/AP_cat'] == 100
    given = MultiLabelMetric(classwise=True, classes=('a', 'b'))
    assert evaluate(given, images, **meta)['cls/AP_a'] == 100
    with pytest.raises(ValueError, match=r'2 classes, expected 3'):
        evaluate(MultiLabelMetric(classes=('a', 'b', 'c')), images)


def test_top_k_and_the_mean_over_classes():
    images = [
        image([0], [0.7, 0.2, 0.1]),
        image([0], [0.3, 0.6, 0.1]),
        image([0], [0.5, 0.3, 0.2]),
        image([2], [0.1, 0.5, 0.4]),
        image([-1], [0.1, 0.5, 0.4]),
    ]
    got = evaluate(ImageLabelMetric(topk=(1, 2)), images)
    assert got == {
        'cls/top1': pytest.approx(50),
        'cls/top2': pytest.approx(100),
        'cls/mean_class': pytest.approx((200 / 3 + 0) / 2),
    }


def test_wrong_labels_are_named():
    with pytest.raises(ValueError, match=r'a\.png.*3 predicted.*ImageLabelMetric'):
        evaluate(MultiLabelMetric(), [image([1], [0.1, 0.2, 0.3])])
    with pytest.raises(ValueError, match=r'\[3\.0\], expected one class id below 3'):
        evaluate(ImageLabelMetric(), [image([3], [0.1, 0.2, 0.3])])
    with pytest.raises(ValueError, match=r'expected one class id.*MultiLabelMetric'):
        evaluate(ImageLabelMetric(), [image([1, 0, 1], [0.1, 0.2, 0.3])])
    for metric in (MultiLabelMetric(), ImageLabelMetric()):
        with pytest.raises(ValueError, match=r'not finite'):
            evaluate(metric, [image([0], [float('nan')])])
    with pytest.raises(ValueError, match='topk'):
        ImageLabelMetric(topk=(0,))
    bare = image([0], [1.0])
    del bare.pred_label.score
    with pytest.raises(ValueError, match=r"\['label'\], expected 'score'"):
        evaluate(ImageLabelMetric(), [bare])
