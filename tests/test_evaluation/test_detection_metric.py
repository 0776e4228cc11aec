"""Average precision of boxes: cases whose result is known."""

from __future__ import annotations

import importlib
import math

import pytest
import torch
from mmengine.structures import InstanceData

from mmseg_xmodal.datasets import MultiTaskDataset
from mmseg_xmodal.evaluation import DetectionMetric
from tests.test_datasets.multitask_samples import MODALITIES, TARGETS, write_split

from .samples import evaluate, sample

BOX = [10.0, 10.0, 30.0, 30.0]
FAR = [50.0, 50.0, 70.0, 70.0]
NAMES = dict(targets=dict(det=dict(kind='boxes', classes=('cat', 'dog'))))


def instances(boxes, labels=None, scores=None):
    out = InstanceData(bboxes=torch.tensor(boxes).reshape(-1, 4))
    out.labels = torch.tensor([0] * len(boxes) if labels is None else labels).long()
    if scores is not None:
        out.scores = torch.tensor(scores).float()
    return out


def image(truth, pred, scores, labels=None, pred_labels=None, **kwargs):
    out = sample(
        gt_instances=instances(truth, labels),
        pred_instances=instances(pred, pred_labels, scores),
        **kwargs,
    )
    out.set_metainfo(dict(ori_shape=(100, 100), img_shape=(100, 100)))
    return out


def ap(*images, **kwargs):
    return evaluate(DetectionMetric(**kwargs), list(images), **NAMES)


def test_perfect_and_empty_predictions():
    perfect = image([BOX, FAR], [FAR, BOX], [0.5, 0.9])
    got = ap(perfect)
    assert got['det/mAP'] == got['det/AP50'] == got['det/AP75'] == pytest.approx(100)
    assert got['det/AR100'] == pytest.approx(100)
    # 20 x 20 pixels are small for COCO; there are no others.
    assert got['det/AP_s'] == pytest.approx(100)
    assert math.isnan(got['det/AP_m'])
    assert ap(image([BOX], [], []))['det/mAP'] == 0


def test_overlap_decides_which_thresholds_are_met():
    # 20 x 20 against 20 x 13: IoU .65 meets .5, .55, .6, .65.
    got = ap(image([BOX], [[10.0, 10.0, 30.0, 23.0]], [0.9]))
    assert got['det/AP50'] == pytest.approx(100)
    assert got['det/AP75'] == 0
    assert got['det/mAP'] == pytest.approx(40)


def test_a_false_box_that_is_surer_halves_the_precision():
    got = ap(image([BOX], [FAR, BOX], [0.9, 0.8]))
    assert got['det/AP50'] == pytest.approx(50)
    assert ap(image([BOX], [FAR, BOX], [0.7, 0.8]))['det/AP50'] == pytest.approx(100)


def test_precision_is_interpolated_at_101_recalls():
    # One of two found: precision 1 up to recall .5, 51 of 101 points.
    got = ap(image([BOX, FAR], [BOX], [0.9]))
    assert got['det/AP50'] == pytest.approx(100 * 51 / 101)
    # The second after a false one: 51 points of 1, 50 of 2/3.
    other = [0.0, 60.0, 20.0, 80.0]
    got = ap(image([BOX, FAR], [BOX, other, FAR], [0.9, 0.8, 0.7]))
    assert got['det/AP50'] == pytest.approx(100 * (51 + 50 * 2 / 3) / 101)


def test_classes_are_averaged_and_named_and_unseen_ones_left_out():
    one = image([BOX, FAR], [BOX, FAR], [0.9, 0.8], [0, 1], [0, 0])
    got = ap(one, classwise=True)
    assert got['det/AP_cat'] == pytest.approx(100)
    assert got['det/AP_dog'] == 0
    assert got['det/mAP'] == pytest.approx(50)
    only_cats = ap(image([BOX], [BOX, FAR], [0.9, 0.8], [0], [0, 1]), classwise=True)
    assert only_cats['det/mAP'] == pytest.approx(100)
    assert math.isnan(only_cats['det/AP_dog'])
    # Without names the numbers stand in.
    bare = evaluate(DetectionMetric(classwise=True), [one])
    assert bare['det/AP_1'] == 0


@pytest.mark.parametrize('labelled', [True, False])
def test_ignored_boxes_are_neither_wanted_nor_wrong(labelled):
    ignored = instances([FAR])
    if not labelled:
        del ignored.labels
    # Two detections on the ignored box, surer than the right one.
    pred = [FAR, [52.0, 52.0, 68.0, 68.0], BOX]
    got = ap(image([BOX], pred, [0.9, 0.8, 0.7], ignored_instances=ignored))
    assert got['det/mAP'] == pytest.approx(100)
    without = ap(image([BOX], pred, [0.9, 0.8, 0.7]))
    assert without['det/AP50'] == pytest.approx(100 / 3)


def test_an_ignored_box_of_one_class_excuses_that_class_only():
    ignored = instances([FAR], [1])
    one = image([BOX], [FAR, BOX], [0.9, 0.7], ignored_instances=ignored)
    assert ap(one)['det/AP50'] == pytest.approx(50)


def test_no_objects_is_a_label_and_no_field_is_none():
    right = image([BOX], [BOX], [0.5])
    empty = image([], [BOX], [0.9])
    assert ap(right, empty)['det/AP50'] == pytest.approx(50)
    unlabelled = image([], [BOX], [0.9])
    del unlabelled.gt_instances
    invalid = image([], [BOX], [0.9], task_valid=dict(det=False))
    assert ap(right, unlabelled, invalid)['det/AP50'] == pytest.approx(100)
    assert math.isnan(ap(empty)['det/mAP'])


def test_truth_in_pixels_of_the_resized_image_is_found_out():
    outside = image([[150.0, 10.0, 170.0, 30.0]], [BOX], [0.9])
    with pytest.raises(ValueError, match=r'\(100, 100\).*170.*after Resize'):
        ap(outside)
    # Inside, but a map of the sample shows that the truth was resized.
    shrunk = image([BOX], [BOX], [0.9], gt_depth_map=torch.ones(1, 50, 50))
    shrunk.set_metainfo(dict(img_shape=(50, 50)))
    with pytest.raises(ValueError, match='after Resize'):
        ap(shrunk)
    shrunk.gt_instances = instances([])
    with pytest.raises(ValueError, match='after Resize'):
        ap(shrunk)
    kept = image([BOX], [BOX], [0.9], gt_depth_map=torch.ones(1, 100, 100))
    kept.set_metainfo(dict(img_shape=(50, 50)))
    assert ap(kept)['det/mAP'] == pytest.approx(100)


@pytest.mark.parametrize('resized_truth', [False, True])
def test_the_order_of_the_test_pipeline_decides(tmp_path, resized_truth):
    write_split(tmp_path, 'val')
    resize = dict(type='mmseg_xmodal.XModalResize', scale=(18, 12), keep_ratio=False)
    targets = dict(type='mmseg_xmodal.LoadTargets')
    data_set = MultiTaskDataset(
        MODALITIES,
        targets={name: TARGETS[name] for name in ('det', 'depth')},
        split='val',
        data_root=str(tmp_path),
        suffixes=dict(rgb='.png', thermal='.npy'),
        metainfo=dict(classes=('a', 'b')),
        pipeline=[
            dict(type='mmseg_xmodal.LoadModalities', modalities=MODALITIES),
            *((targets, resize) if resized_truth else (resize, targets)),
            dict(type='mmseg_xmodal.PackXModalInputs'),
        ],
        test_mode=True,
    )
    one = data_set[0]['data_samples']
    one.pred_instances = instances([[2.0, 2, 6, 6]], [0], [0.9])
    if resized_truth:
        with pytest.raises(ValueError, match='after Resize'):
            ap(one)
    else:
        assert one.img_shape == (12, 18)
        assert one.gt_instances.bboxes.tolist() == [[2, 2, 6, 6]]
        assert ap(one)['det/mAP'] == pytest.approx(100)


def test_labels_beyond_the_classes_and_bad_numbers_are_named():
    with pytest.raises(ValueError, match=r"label 2, expected one below 2.*'dog'"):
        ap(image([BOX], [BOX], [0.9], [0], [2]))
    with pytest.raises(ValueError, match=r'a\.png.*not finite'):
        ap(image([BOX], [BOX], [float('nan')]))
    bare = image([BOX], [BOX], [0.9])
    del bare.gt_instances.labels
    with pytest.raises(ValueError, match=r"'bboxes'.*'labels'.*gt_bboxes_labels"):
        ap(bare)


def test_missing_pycocotools_names_the_command(monkeypatch):
    def fail(name, *args):
        raise ModuleNotFoundError(f'No module named {name!r}')

    monkeypatch.setattr(importlib, 'import_module', fail)
    with pytest.raises(ImportError, match='pip install pycocotools'):
        DetectionMetric()
