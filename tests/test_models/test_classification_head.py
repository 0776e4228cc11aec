"""ClassificationHead: one label per image, or any number of them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from mmengine.structures import LabelData

from mmseg_xmodal.models.decode_heads import ClassificationHead
from mmseg_xmodal.registry import MODELS

from .head_cases import (
    WIDTHS,
    check_nothing_known,
    check_training,
    feats,
    label,
    sample,
)

MULTI = dict(multi_label=True)


def _head(**changes: Any) -> ClassificationHead:
    cfg: dict = dict(type='mmseg_xmodal.ClassificationHead', num_classes=3)
    cfg |= dict(in_channels=WIDTHS[2:], in_index=[2, 3])
    return MODELS.build(cfg | changes)


def _samples(*labels: LabelData) -> list:
    return [sample(gt_label=each) for each in labels]


def _single() -> list:
    return _samples(label(2), label(0))


def _multi() -> list:
    return _samples(
        label(1, 0, -1, dtype=torch.float32), label(0, 1, 1, dtype=torch.float32)
    )


def test_trains() -> None:
    check_training(_head(), _single())
    check_training(_head(label_smoothing=0.1), _single())
    check_training(_head(**MULTI), _multi())
    check_nothing_known(_head(), _samples(label(-1), label(-1)))
    unknown = label(-1, -1, -1, dtype=torch.float32)
    check_nothing_known(_head(**MULTI), _samples(unknown, unknown))


@pytest.mark.parametrize('smoothing', [0.0, 0.2])
def test_single_label_is_the_formula(smoothing: float) -> None:
    head = _head(label_smoothing=smoothing, loss_weight=2.0).double()
    maps = feats(batch=3, dtype=torch.float64)
    logits = head(maps).tolist()
    values = []
    for row, true in zip(logits[:2], (2, 0), strict=True):
        logs = [x - math.log(sum(map(math.exp, row))) for x in row]
        wanted = [smoothing / 3 + (1 - smoothing) * (i == true) for i in range(3)]
        values.append(-sum(w * v for w, v in zip(wanted, logs, strict=True)))
    # The third is unknown.
    loss = head.loss(maps, [*_single(), *_samples(label(-1))])
    assert list(loss) == ['loss_cls']
    assert float(loss['loss_cls'].detach()) == pytest.approx(2 * sum(values) / 2)


@pytest.mark.parametrize('weights', [None, 3.0, [1.0, 2.0, 4.0]])
def test_multi_label_is_the_formula(weights: Any) -> None:
    head = _head(**MULTI, pos_weight=weights).double()
    maps = feats(dtype=torch.float64)
    factors = weights if isinstance(weights, list) else [weights or 1.0] * 3
    values = []
    for row, truth in zip(head(maps).tolist(), ((1, 0, -1), (0, 1, 1)), strict=True):
        for score, true, factor in zip(row, truth, factors, strict=True):
            p = 1 / (1 + math.exp(-score))
            if true >= 0:
                values.append(-factor * math.log(p) if true else -math.log(1 - p))
    assert len(values) == 5
    loss = head.loss(maps, _multi())['loss_cls']
    assert float(loss.detach()) == pytest.approx(sum(values) / 5)


def test_pools_the_chosen_maps() -> None:
    head = _head().double()
    maps = feats(dtype=torch.float64)
    pooled = torch.cat([maps[2].mean((2, 3)), maps[3].mean((2, 3))], 1)
    torch.testing.assert_close(head(maps), head.fc(pooled))


@pytest.mark.parametrize('size', [(36, 56), (5, 3)])
def test_predicts(size: tuple[int, int]) -> None:
    head = _head().eval()
    with torch.no_grad():
        fields = head.predict(feats(size), [sample(size).metainfo] * 2)
    assert [list(f) for f in fields] == [['pred_label']] * 2
    score, found = fields[0]['pred_label'].score, fields[0]['pred_label'].label
    assert float(score.sum()) == pytest.approx(1)
    assert (found.shape, found.dtype) == ((1,), torch.int64)
    assert int(found) == int(score.argmax())


def test_predicts_several() -> None:
    head = _head(**MULTI, threshold=0.6, target='gt_monsters').eval()
    with torch.no_grad():
        head.fc.weight.zero_()
        head.fc.bias.copy_(torch.tensor([0.5, 0.3, -2.0]))
        fields = head.predict(feats(), [{}] * 2)
    assert [list(f) for f in fields] == [['pred_monsters']] * 2
    found = fields[1]['pred_monsters']
    assert found.label.tolist() == [1, 0, 0]
    torch.testing.assert_close(found.score, torch.tensor([0.5, 0.3, -2.0]).sigmoid())


def test_dropout_is_in_training_only() -> None:
    head, maps = _head(dropout_ratio=0.5), feats()
    assert not torch.equal(head(maps), head(maps))
    head.eval()
    assert torch.equal(head(maps), head(maps))


@pytest.mark.parametrize(
    ('wrong', 'message'),
    [
        (MULTI | dict(label_smoothing=0.1), 'label_smoothing is for a single label'),
        (dict(pos_weight=2.0), 'pos_weight for several'),
        (MULTI | dict(pos_weight=[1.0, 2.0]), '2 numbers in pos_weight, expected one'),
    ],
)
def test_wrong_arguments(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _head(**wrong)


@pytest.mark.parametrize(
    ('changes', 'wrong', 'message'),
    [
        ({}, label(3), r'the label \[3\], expected one class id below 3'),
        ({}, label(-2), r'the label \[-2\]'),
        ({}, label(0, 1, 0), r'a label of the shape \(3,\), expected one class id'),
        (MULTI, label(1, 0), r'a label of the shape \(2,\), expected 3 numbers'),
        (MULTI, label(0, 2, 0), r'the label \[0, 2, 0\], expected 3 numbers from 0'),
    ],
)
def test_wrong_labels(changes: dict, wrong: LabelData, message: str) -> None:
    good = label(0, 0, 1) if changes else label(0)
    with pytest.raises(ValueError, match="'some/picture.png' has " + message):
        _head(**changes).loss(feats(), _samples(good, wrong))
