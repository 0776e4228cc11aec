"""Metrics of labels of whole images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.logging import print_log
from prettytable import PrettyTable

from mmseg_xmodal.registry import METRICS

from .task_metric import (
    TaskMetric,
    class_names,
    mean_known,
    percent,
    require_prediction,
    to_array,
)

_UNKNOWN = -1


@METRICS.register_module()
class MultiLabelMetric(TaskMetric):
    """Average precision and F1 of several labels per image, in percent.

    ``mAP``: mean over classes of the average precision, the mean over true images of
    the precision at the score of each (images of equal score enter together; not
    interpolated). ``CF1``: mean over classes of F1 at ``threshold``. ``OF1``: F1 of the
    counts of all classes. The log gets a table of the classes.

    An image whose label of a class is -1 (unknown) does not count for that class. A
    class of which no image is true does not count for the means.

    Args:
        threshold: Probability from which a class counts as predicted, for F1.
        classes: Names of the classes. Defaults to those of the data set
            (``metainfo['targets'][task]['classes']``), else to their numbers.
        classwise: Whether the results hold ``AP_<class>`` too.
        kwargs: As for :class:`TaskMetric`; the task is ``'cls'``, the target
            ``'gt_label'``: 1, 0 or -1 per class.

    Raises:
        ValueError: If truth, scores and names are not of the same number of classes.
    """

    TASK = 'cls'
    TARGET = 'gt_label'

    def __init__(
        self,
        threshold: float = 0.5,
        classes: Sequence[str] | None = None,
        classwise: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.threshold = threshold
        self.classes = classes
        self.classwise = classwise

    def measure(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """Truth and scores of one image."""
        truth, score = _label_pair(sample, self.target, type(self).__name__)
        if truth.shape != score.shape or not np.isin(truth, (0, 1, _UNKNOWN)).all():
            raise ValueError(
                f'MultiLabelMetric: {self.target!r} of {sample.get("img_path")!r} is '
                f'{truth.tolist()}, with {score.size} predicted scores, expected as '
                'many numbers of 0, 1 and -1 (unknown). For one class per image take '
                'mmseg_xmodal.ImageLabelMetric.'
            )
        return dict(truth=truth.astype(np.int8), score=score)

    def summarise(self, results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Means over classes."""
        truth = np.stack([image['truth'] for image in results])
        score = np.stack([image['score'] for image in results])
        names = class_names(self.dataset_meta, self.task, self.classes)
        names = names or tuple(str(k) for k in range(truth.shape[1]))
        if len(names) != truth.shape[1]:
            raise ValueError(
                f'MultiLabelMetric: the labels are of {truth.shape[1]} classes, '
                f'expected {len(names)}: {list(names)}. Make num_classes of the head '
                'and the classes of the data set agree.'
            )
        known, positive = truth != _UNKNOWN, truth == 1
        predicted = (score >= self.threshold) & known
        right = (predicted & positive).sum(0)
        wanted, found = positive.sum(0), predicted.sum(0)
        precisions = [
            average_precision(score[known[:, k], k], positive[known[:, k], k])
            for k in range(len(names))
        ]
        f1 = [
            percent(2 * r, w + f) if w else float('nan')
            for r, w, f in zip(right, wanted, found, strict=True)
        ]
        table = PrettyTable(['class', 'AP', 'F1', 'true', 'known'])
        for k, name in enumerate(names):
            numbers = (f'{precisions[k]:.2f}', f'{f1[k]:.2f}', wanted[k])
            table.add_row([name, *numbers, known[:, k].sum()])
        print_log(f'{self.prefix}:\n{table.get_string()}', logger='current')
        values = dict(
            mAP=mean_known(precisions),
            CF1=mean_known(f1),
            OF1=percent(2 * right.sum(), wanted.sum() + found.sum()),
        )
        if self.classwise:
            values |= {f'AP_{n}': p for n, p in zip(names, precisions, strict=True)}
        return values


@METRICS.register_module()
class ImageLabelMetric(TaskMetric):
    """Accuracy of one label per image, in percent.

    ``top1``, ``top5`` and so on: the share of images whose class is among the likeliest
    k (the lower number of classes of equal score comes first). ``mean_class``: the mean
    over classes of the ``top1`` of their images. Images of the label -1 (unknown) do
    not count.

    Args:
        topk: The numbers k.
        kwargs: As for :class:`TaskMetric`; the task is ``'cls'``, the target
            ``'gt_label'``: one class id.

    Raises:
        ValueError: If a label is no class, or ``topk`` is not of numbers from 1.
    """

    TASK = 'cls'
    TARGET = 'gt_label'

    def __init__(self, topk: Sequence[int] = (1,), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.topk = tuple(topk)
        if not self.topk or min(self.topk) < 1:
            raise ValueError(
                f'ImageLabelMetric has topk={topk!r}, expected a list of numbers from '
                '1. Change it in the evaluator.'
            )

    def measure(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """Class and its rank in one image; None for both where it is unknown."""
        truth, score = _label_pair(sample, self.target, type(self).__name__)
        if truth.tolist() == [_UNKNOWN]:
            return dict(label=None, rank=None)
        if truth.size != 1 or not 0 <= int(truth[0]) < score.size:
            raise ValueError(
                f'ImageLabelMetric: {self.target!r} of {sample.get("img_path")!r} is '
                f'{truth.tolist()}, expected one class id below {score.size}, or -1 '
                '(unknown). For several labels take mmseg_xmodal.MultiLabelMetric.'
            )
        label = int(truth[0])
        order = np.argsort(-score, kind='stable')
        return dict(label=label, rank=int(np.flatnonzero(order == label)[0]))

    def summarise(self, results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Shares of the images."""
        known = [image for image in results if image['label'] is not None]
        label = np.array([image['label'] for image in known], int)
        rank = np.array([image['rank'] for image in known], int)
        values = {f'top{k}': percent((rank < k).sum(), len(rank)) for k in self.topk}
        classes = [
            percent((rank[label == k] < 1).sum(), (label == k).sum())
            for k in np.unique(label)
        ]
        return dict(values, mean_class=mean_known(classes))


def average_precision(score: np.ndarray, positive: np.ndarray) -> float:
    """Average precision of one class in percent; NaN where no image is true.

    Shape:
        - score, positive: (N,)
    """
    if not positive.any():
        return float('nan')
    order = np.argsort(-score, kind='stable')
    score, positive = score[order], positive[order]
    # The last place of each run of equal scores: no order is made up inside it.
    ends = np.flatnonzero(np.append(score[1:] != score[:-1], True))
    right = np.cumsum(positive)[ends]
    gained = np.diff(right, prepend=0)
    return percent((gained * right / (ends + 1)).sum(), positive.sum())


def _label_pair(
    sample: Mapping[str, Any], target: str, owner: str
) -> tuple[np.ndarray, np.ndarray]:
    """True label and predicted scores, both one-dimensional."""
    pred = require_prediction(sample, target, owner)
    if 'score' not in pred:
        raise ValueError(
            f'{owner}: the prediction of {sample.get("img_path")!r} has the fields '
            f"{sorted(pred)}, expected 'score', one per class."
        )
    truth, score = to_array(sample[target]['label']), to_array(pred['score'])
    if not np.isfinite(score).all():
        raise ValueError(
            f'{owner}: the scores of {sample.get("img_path")!r} are not finite. The '
            'model has diverged: see its losses.'
        )
    return truth.reshape(-1), score.reshape(-1)
