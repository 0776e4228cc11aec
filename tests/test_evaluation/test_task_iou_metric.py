"""IoU of further segmentation tasks: the stock numbers, from other fields."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from mmseg.evaluation import IoUMetric
from PIL import Image

from mmseg_xmodal.evaluation import TaskIoUMetric

from .samples import evaluate, sample

CLASSES = ('water', 'crop', 'built')


def maps(seed):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, (1, 8, 9))
    truth[:, :2] = 255
    pred = np.where(rng.random(truth.shape) < 0.3, rng.integers(0, 3), truth % 3)
    return torch.from_numpy(truth), torch.from_numpy(pred)


PAIRS = [maps(k) for k in range(3)]
OURS = [sample(gt_cover=t, pred_cover=p) for t, p in PAIRS]


def test_equals_the_stock_metric_on_the_main_fields():
    main = [sample(gt_sem_seg=t, pred_sem_seg=p) for t, p in PAIRS]
    options = dict(iou_metrics=['mIoU', 'mFscore'])
    want = evaluate(IoUMetric(**options), main, classes=CLASSES)
    # The data set's own classes are others, and more.
    ours = TaskIoUMetric(task='cover', classes=CLASSES, **options)
    got = evaluate(ours, OURS, classes=('a',) * 7)
    assert got == {f'cover/{key}': value for key, value in want.items()}
    assert 20 < got['cover/mIoU'] < 90


def test_classes_of_the_task_come_from_the_data_set():
    meta = dict(classes=('a',), targets=dict(cover=dict(kind='label', classes=CLASSES)))
    named = evaluate(TaskIoUMetric(task='cover'), OURS, **meta)
    counted = dict(targets=dict(cover=dict(kind='label', classes=3)))
    assert named == evaluate(TaskIoUMetric(task='cover'), OURS, **counted)
    with pytest.raises(ValueError, match=r"'cover' are not known.*classes=\(\.\.\.\)"):
        evaluate(TaskIoUMetric(task='cover'), OURS, classes=('a',))


def test_samples_without_labels_are_left_out_of_the_main_task_too():
    main = [sample(gt_sem_seg=t, pred_sem_seg=p) for t, p in PAIRS]
    bare = sample(pred_sem_seg=PAIRS[0][1])
    invalid = sample(
        gt_sem_seg=PAIRS[0][0], pred_sem_seg=PAIRS[1][1], task_valid=dict(seg=False)
    )
    metric = TaskIoUMetric(task='seg', target='gt_sem_seg')
    want = evaluate(IoUMetric(), main, classes=CLASSES)
    got = evaluate(metric, [bare, *main, invalid], classes=CLASSES)
    assert got == {f'seg/{key}': value for key, value in want.items()}


def test_own_ignore_index_counts():
    truth, pred = torch.zeros(1, 2, 2).long(), torch.ones(1, 2, 2).long()
    truth[0, 0] = 1
    one = [sample(gt_cover=truth, pred_cover=pred)]
    metric = TaskIoUMetric(task='cover', classes=('a', 'b'), ignore_index=0)
    assert evaluate(metric, one)['cover/aAcc'] == 100


def test_other_sizes_and_missing_predictions_are_named():
    metric = TaskIoUMetric(task='cover', classes=CLASSES)
    wrong = sample(gt_cover=PAIRS[0][0])
    wrong.set_data(dict(pred_cover=PixelData(data=PAIRS[0][1][:, :4])))
    with pytest.raises(ValueError, match=r'\(1, 8, 9\).*\(1, 4, 9\).*after Resize'):
        evaluate(metric, [wrong])
    with pytest.raises(ValueError, match="expected 'pred_cover'"):
        evaluate(metric, [sample(gt_cover=PAIRS[0][0])])


def test_predictions_can_be_written_without_truth(tmp_path):
    metric = TaskIoUMetric(
        task='cover', classes=CLASSES, output_dir=str(tmp_path), format_only=True
    )
    assert evaluate(metric, [sample(pred_cover=PAIRS[0][1])]) == {}
    assert (tmp_path / 'a.png').is_file()


@pytest.mark.parametrize('main', [False, True])
@pytest.mark.parametrize('own', [False, True])
def test_predictions_are_written_as_the_files_of_the_task_count(tmp_path, main, own):
    """Whether ids begin at 1 in the files of the main labels says nothing about it."""
    pred = PAIRS[0][1]
    one = sample(pred_cover=pred, pred_sem_seg=pred)
    one.set_metainfo(dict(reduce_zero_label=main))
    cover = dict(classes=CLASSES) | (dict(reduce_zero_label=True) if own else {})

    def written(task: str, target: str | None = None) -> np.ndarray:
        folder = tmp_path / task
        metric = TaskIoUMetric(task, target, output_dir=str(folder), format_only=True)
        evaluate(metric, [one], classes=CLASSES, targets=dict(cover=cover))
        return np.asarray(Image.open(folder / 'a.png'))

    assert np.array_equal(written('cover'), pred[0] + own)
    assert np.array_equal(written('seg', 'gt_sem_seg'), pred[0] + main)
