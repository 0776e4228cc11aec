"""Boxes of several views become one set."""

from __future__ import annotations

import torch
from mmengine.structures import InstanceData

from mmseg_xmodal.models.layers.box_merge import merge_boxes, pairwise_iou


def view(boxes: list, scores: list, labels: list) -> InstanceData:
    return InstanceData(
        bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        scores=torch.tensor(scores, dtype=torch.float32),
        labels=torch.tensor(labels, dtype=torch.long),
    )


def test_iou():
    boxes = torch.tensor([[0, 0, 2, 2], [1, 0, 3, 2], [5, 5, 5, 9], [0, 0, 2, 2.0]])
    iou = pairwise_iou(boxes)
    assert iou[0].tolist() == torch.tensor([1, 1 / 3, 0, 1]).tolist()
    assert iou[2].tolist() == [0, 0, 0, 0]
    assert torch.equal(iou, iou.T)


def test_the_better_box_of_a_class_stays():
    first = view([[0, 0, 10, 10], [20, 0, 30, 10]], [0.6, 0.9], [0, 1])
    second = view([[0, 0, 10, 9], [20, 0, 30, 10]], [0.8, 0.5], [0, 0])
    merged = merge_boxes([first, second])
    assert merged.scores.tolist() == torch.tensor([0.9, 0.8, 0.5]).tolist()
    assert merged.labels.tolist() == [1, 0, 0]
    assert merged.bboxes[1].tolist() == [0, 0, 10, 9]
    assert len(merge_boxes([first, second], most=1)) == 1


def test_a_suppressed_box_suppresses_nothing():
    boxes = [[0, 0, 10, 10], [3, 0, 13, 10], [6, 0, 16, 10]]
    merged = merge_boxes([view(boxes, [0.9, 0.8, 0.7], [0, 0, 0])])
    # The neighbours overlap by 7/13, the outer two by 4/16 only.
    assert merged.scores.tolist() == torch.tensor([0.9, 0.7]).tolist()


def test_views_without_boxes():
    empty = view([], [], [])
    assert len(merge_boxes([empty, empty])) == 0
    assert len(merge_boxes([empty, view([[0, 0, 1, 1]], [0.5], [2])])) == 1
