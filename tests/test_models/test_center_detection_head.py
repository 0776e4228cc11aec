"""CenterDetectionHead: what is drawn, what is picked, and that these are inverse."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmseg.structures import SegDataSample
from torch import Tensor

from mmseg_xmodal.models.decode_heads import CenterDetectionHead
from mmseg_xmodal.models.layers.heatmap import (
    draw_gaussians,
    gaussian_radius,
    pick_peaks,
)
from mmseg_xmodal.models.losses import HeatmapFocalLoss
from mmseg_xmodal.registry import MODELS

from .head_cases import (
    SIZE,
    WIDTHS,
    check_training,
    feats,
    instances,
    sample,
)
from .helpers import rand

BOXES = [[2.0, 3, 13, 20], [10, 2.5, 41, 35], [30, 20, 55, 31], [44, 1, 52, 9]]
LABELS = [0, 2, 1, 0]


def _head(**changes: Any) -> CenterDetectionHead:
    cfg: dict = dict(type='mmseg_xmodal.CenterDetectionHead', num_classes=3)
    return MODELS.build(cfg | dict(in_channels=WIDTHS, channels=16) | changes)


def _sample(boxes: Any = BOXES, labels: Any = LABELS, **fields: Any) -> SegDataSample:
    return sample(gt_instances=instances(boxes, labels), **fields)


def _perfect(head: CenterDetectionHead, samples: list, size: tuple) -> Tensor:
    """The raw output that says exactly what the targets say."""
    truth = head.targets(samples, size)
    output = torch.zeros(len(samples), head.num_classes + 4, size[0] * size[1])
    output[:, : head.num_classes] = truth.heatmap.flatten(2).logit(eps=1e-4)
    output[truth.image, -4:-2, truth.cell] = truth.size
    output[truth.image, -2:, truth.cell] = truth.offset
    return output.view(len(samples), -1, *size)


# What is drawn


def _overlap(a: Sequence[float], b: Sequence[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, 0) * max(height, 0)
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return common / (sum(areas) - common)


@settings(deadline=None, max_examples=60)
@given(
    size=st.tuples(st.floats(0.5, 200), st.floats(0.5, 200)),
    overlap=st.floats(0.05, 0.95),
)
def test_radius_keeps_the_overlap_and_no_more(size: tuple, overlap: float) -> None:
    sizes = torch.tensor([size], dtype=torch.float64)
    r = float(gaussian_radius(sizes, overlap))
    w, h = size
    moved = [(r, r, w - r, h - r), (-r, -r, w + r, h + r), (r, r, w + r, h + r)]
    worst = min(_overlap((0, 0, w, h), box) for box in moved)
    assert worst == pytest.approx(overlap, rel=1e-6)


def test_gaussians_are_the_formula() -> None:
    index = torch.tensor([0, 0, 1, 1, 0])
    cells = torch.tensor([[2, 3], [4, 3], [0, 0], [8, 6], [6, 6]])
    radii = torch.tensor([2, 3, 1, 4, 0])
    expected = torch.zeros(3, 7, 9)
    for plane, (cx, cy), r in zip(
        index.tolist(), cells.tolist(), radii.tolist(), strict=True
    ):
        sigma = (2 * r + 1) / 6
        for y in range(max(cy - r, 0), min(cy + r + 1, 7)):
            for x in range(max(cx - r, 0), min(cx + r + 1, 9)):
                away = (x - cx) ** 2 + (y - cy) ** 2
                value = math.exp(-away / (2 * sigma**2))
                expected[plane, y, x] = max(value, float(expected[plane, y, x]))
    drawn = draw_gaussians(3, (7, 9), index, cells, radii)
    torch.testing.assert_close(drawn, expected)
    assert (drawn == 1).sum() == 5
    none = torch.zeros(0, dtype=torch.int64)
    assert not draw_gaussians(3, (7, 9), none, none.view(0, 2), none).any()


def test_targets() -> None:
    head = _head()
    truth = head.targets([_sample([], []), _sample()], (9, 14))
    assert not truth.heatmap[0].any()
    assert truth.image.tolist() == [1] * 4
    # The first box: centre (7.5, 11.5) in pixels, cell (1, 2) of 4 x 4 pixels.
    assert int(truth.cell[0]) == 2 * 14 + 1
    torch.testing.assert_close(truth.size[0], torch.tensor([11 / 4, 17 / 4]))
    torch.testing.assert_close(truth.offset[0], torch.tensor([0.875, 0.875]))
    for cell, name in zip(truth.cell, LABELS, strict=True):
        assert truth.heatmap[1, name].flatten()[cell] == 1
    assert (truth.heatmap == 1).sum() == 4


# Losses


@pytest.mark.parametrize('ignored', [False, True])
def test_focal_loss_is_the_formula(ignored: bool) -> None:
    score = rand(2, 2, 4, 5, dtype=torch.float64)
    target = rand(2, 2, 4, 5, seed=1, dtype=torch.float64).sigmoid()
    target[0, 1, 2, 3] = target[1, 0, 0, 0] = 1
    mask = torch.zeros(2, 1, 4, 5, dtype=torch.bool)
    mask[0, 0, 2] = ignored
    value = 0.0
    flags = mask.expand_as(target).flatten().tolist()
    for s, y, skip in zip(
        score.flatten().tolist(), target.flatten().tolist(), flags, strict=True
    ):
        p = 1 / (1 + math.exp(-s))
        if y == 1:
            value -= (1 - p) ** 2 * math.log(p)
        elif not skip:
            value -= (1 - y) ** 4 * p**2 * math.log(1 - p)
    loss = HeatmapFocalLoss(loss_weight=3.0)
    assert float(loss(score, target, mask)) == pytest.approx(3 * value / 2)
    score.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, target, mask), (score,))


def test_focal_loss_of_sure_predictions() -> None:
    """Logits by which a probability rounds to 0 or 1."""
    score = torch.tensor([-200.0, 200.0, -200.0, 200.0]).requires_grad_()
    target = torch.tensor([1.0, 1.0, 0.0, 0.0])
    loss = HeatmapFocalLoss()(score, target)
    loss.backward()
    assert float(loss.detach()) == 200
    assert torch.isfinite(score.grad).all()


def test_losses_are_the_published_ones() -> None:
    head, samples = _head(), [_sample(), _sample(BOXES[:1], [1])]
    output = head(feats())
    losses = head.loss(feats(), samples)
    truth = head.targets(samples, (9, 14))
    heat = HeatmapFocalLoss()(output[:, :3], truth.heatmap)
    torch.testing.assert_close(losses['loss_heatmap'], heat)
    boxes = torch.tensor([*BOXES, BOXES[0]]) / 4
    sizes, offsets = [], []
    for image, box in zip([0, 0, 0, 0, 1], boxes, strict=True):
        centre = (box[:2] + box[2:]) / 2
        x, y = (int(v) for v in centre)
        wanted = torch.tensor([*(box[2:] - box[:2]), *(centre - centre.floor())])
        errors = (output[image, 3:, y, x] - wanted).abs()
        sizes += errors[:2].tolist()
        offsets += errors[2:].tolist()
    assert float(losses['loss_size'].detach()) == pytest.approx(0.1 * sum(sizes) / 10)
    assert float(losses['loss_offset'].detach()) == pytest.approx(sum(offsets) / 10)


def test_trains() -> None:
    check_training(_head(), [_sample(), _sample([], [])])
    cfg = dict(in_channels=WIDTHS[1:], in_index=[1, 2, 3], stride=8, refine=False)
    check_training(_head(**cfg), [_sample(), _sample()])


def test_pictures_without_objects_train_the_heatmap_alone() -> None:
    head = _head().train()
    losses = head.loss(feats(), [_sample([], []), _sample([], [])])
    assert float(losses['loss_size'].detach()) == 0
    assert float(losses['loss_offset'].detach()) == 0
    assert float(losses['loss_heatmap'].detach()) > 0
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in head.parameters())
    assert all(torch.isfinite(p.grad).all() for p in head.parameters())


def test_ignored_boxes_are_no_background() -> None:
    head = _head()
    ignored = instances([[0.0, 0, 20, 14], [40, 20, 56, 36]])
    truth = head.targets([_sample(ignored_instances=ignored), _sample()], (9, 14))
    # Centres of cells at 2, 6, ... pixels.
    expected = torch.zeros(9, 14, dtype=torch.bool)
    expected[:3, :5] = expected[5:, 10:] = True
    assert torch.equal(truth.ignored[0, 0], expected)
    assert not truth.ignored[1].any()
    none = head.targets([_sample(ignored_instances=instances([]))], (9, 14))
    assert not none.ignored.any()
    # All of it ignored: nothing but the centres is trained.
    whole = _sample([], [], ignored_instances=instances([[0.0, 0, *SIZE[::-1]]]))
    losses = head.loss(feats(), [whole, whole])
    assert float(sum(losses.values()).detach()) == 0


def test_learns_to_find_boxes() -> None:
    torch.manual_seed(1)
    head, maps = _head(), feats(batch=1)
    optimiser = torch.optim.Adam(head.parameters(), lr=0.02)
    for _ in range(100):
        optimiser.zero_grad()
        sum(head.loss(maps, [_sample()]).values()).backward()
        optimiser.step()
    head.eval()
    with torch.no_grad():
        found = head.predict(maps, [_sample().metainfo])[0]['pred_instances']
    best = found[:4]
    assert float(best.scores.min()) > 0.5
    order = [int((b - torch.tensor(BOXES)).abs().sum(1).argmin()) for b in best.bboxes]
    assert sorted(order) == [0, 1, 2, 3]
    assert best.labels.tolist() == [LABELS[i] for i in order]
    pairs = zip(best.bboxes.tolist(), order, strict=True)
    assert min(_overlap(box, BOXES[i]) for box, i in pairs) > 0.8


# What is picked


def test_peaks() -> None:
    scores = torch.zeros(1, 2, 4, 5)
    scores[0, 0, 1, 1], scores[0, 0, 1, 2], scores[0, 0, 3, 4] = 0.9, 0.8, 0.5
    scores[0, 1, 1, 2] = 0.7  # beside a higher one, but of another class
    best, labels, cells = pick_peaks(scores, 3)
    torch.testing.assert_close(best, torch.tensor([[0.9, 0.7, 0.5]]))
    assert labels.tolist() == [[0, 1, 0]]
    assert cells.tolist() == [[6, 7, 19]]
    best, _, _ = pick_peaks(scores, 1000)
    assert best.shape == (1, 40)
    assert (best > 0).sum() == 3


def test_a_perfect_heatmap_gives_exactly_the_boxes() -> None:
    head = _head()
    samples = [_sample(), _sample(BOXES[1:2], [1])]
    boxes, scores, labels = head.decode(_perfect(head, samples, (9, 14)))
    for i, each in enumerate(samples):
        truth = each.gt_instances
        count = len(truth)
        order = boxes[i, :count, 0].argsort()
        wanted = truth.bboxes[:, 0].argsort()
        torch.testing.assert_close(boxes[i, :count][order], truth.bboxes[wanted])
        assert torch.equal(labels[i, :count][order], truth.labels[wanted])
        assert scores[i, count - 1] > 0.999 > 0.9 > scores[i, count]


@pytest.mark.parametrize('direction', [None, 'horizontal', 'vertical', 'diagonal'])
@pytest.mark.parametrize('size', [(36, 56), (33, 47), (72, 84)])
def test_views_are_undone(direction: str | None, size: tuple[int, int]) -> None:
    """Boxes of the original image, through resize, flip and padding, and back."""
    head = _head(score_threshold=0.9)
    scale = (size[1] / SIZE[1], size[0] / SIZE[0])
    view = torch.tensor(BOXES) * torch.tensor(scale * 2)
    if direction in ('horizontal', 'diagonal'):
        view[:, [0, 2]] = size[1] - view[:, [2, 0]]
    if direction in ('vertical', 'diagonal'):
        view[:, [1, 3]] = size[0] - view[:, [3, 1]]
    padded = (size[0] + 7, size[1] + 5)
    cells = (-(-padded[0] // 4), -(-padded[1] // 4))
    seen = _sample(view.tolist(), LABELS)
    meta = dict(img_shape=size, pad_shape=padded, img_padding_size=(0, 5, 0, 7))
    meta |= dict(ori_shape=SIZE, scale_factor=scale)
    meta |= dict(flip=direction is not None, flip_direction=direction)
    seen.set_metainfo(meta)
    output = _perfect(head, [seen], cells)
    # Something in the padding, which is no box of the picture.
    output[0, 1, -1, -1] = 9
    head.forward = lambda maps: output  # type: ignore[method-assign]
    fields = head.predict([], [seen.metainfo])
    assert [list(f) for f in fields] == [['pred_instances']]
    found = fields[0]['pred_instances']
    order = found.bboxes[:, 0].argsort()
    torch.testing.assert_close(found.bboxes[order], torch.tensor(BOXES)[[0, 1, 2, 3]])
    assert found.labels[order].tolist() == LABELS
    assert found.scores.diff().max() <= 0


@pytest.mark.parametrize('size', [SIZE, (33, 47), (5, 3), (1, 1)])
def test_any_size(size: tuple[int, int]) -> None:
    head = _head(score_threshold=0.0).eval()
    with torch.no_grad():
        fields = head.predict(feats(size), [sample(size).metainfo] * 2)
    for field in fields:
        found = field['pred_instances']
        assert len(found) <= 100
        assert ((found.bboxes >= 0) & (found.bboxes <= max(size))).all()
        assert found.labels.dtype == torch.int64
    box = [[0.0, 0, size[1], size[0]]]
    losses = head.loss(feats(size), [sample(size, gt_instances=instances(box))] * 2)
    assert torch.isfinite(sum(losses.values()))


# Bad input


@pytest.mark.parametrize(
    'box',
    [
        [5.0, 5, 5, 9],  # no width
        [5.0, 9, 8, 5],  # upside down
        [-30.0, 5, -20, 9],  # outside
        [50.0, 5, 80, 9],  # its centre is
        [5.0, 30, 8, math.nan],
    ],
)
def test_bad_boxes_are_named(box: list[float]) -> None:
    bad = _sample([BOXES[0], box], [0, 1])
    message = r"'some/picture.png' has the box .* at index 1, expected x1 < x2"
    with pytest.raises(ValueError, match=message + '.*box-aware ones'):
        _head().loss(feats(), [_sample(), bad])


@pytest.mark.parametrize('wrong', [3, -1])
def test_bad_labels_are_named(wrong: int) -> None:
    bad = _sample(BOXES[:2], [0, wrong])
    message = f'the label {wrong} at index 1, expected 0 up to, not including, 3'
    with pytest.raises(ValueError, match=message):
        _head().loss(feats(), [_sample(), bad])


def test_a_wrong_stride_is_named() -> None:
    message = r'stride=8, but reads a map of .* = \(9, 14\) of an input of \(36, 56\)'
    with pytest.raises(ValueError, match=message):
        _head(stride=8).loss(feats(), [_sample(), _sample()])
    with pytest.raises(ValueError, match='stride=8'):
        _head(stride=8).predict(feats(), [sample().metainfo] * 2)


def test_wrong_overlap() -> None:
    with pytest.raises(ValueError, match=r'min_overlap=1.0, expected an IoU in \(0, 1'):
        _head(min_overlap=1.0)
