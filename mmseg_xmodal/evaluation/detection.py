"""Metrics of boxes."""

from __future__ import annotations

import contextlib
import importlib
import io
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
    require_prediction,
    to_array,
)

# COCO's numbers of its own arrays: all areas, small (below 32^2 pixels), medium, large
# (above 96^2); and the largest number of detections per image, 100.
_AREAS = dict(all=0, s=1, m=2, l=3)
_MOST = 2


@METRICS.register_module()
class DetectionMetric(TaskMetric):
    """Average precision of boxes, as COCO defines it, by ``pycocotools``.

    In percent: ``mAP`` (mean over IoU 0.5 to 0.95 and classes), ``AP50``, ``AP75``,
    ``AP_s``, ``AP_m``, ``AP_l`` (by area in pixels), ``AR100``. Classes without true
    boxes do not count; a result that nothing counts for is NaN. The log gets a table of
    the classes.

    Boxes are xyxy in pixels of the *original* image. The model gives them so; the truth
    is so if the test pipeline reads it after ``Resize``, which is checked as far as it
    shows. Ignored boxes (``ignored_instances``; of all classes where they have no
    ``labels``) are COCO's crowds: a detection that lies in one is neither right nor
    wrong. An empty ``gt_instances`` says that there is no object; a sample without the
    field is unlabelled and left out.

    Args:
        classes: Names of the classes. Defaults to those of the data set
            (``metainfo['targets'][task]['classes']``), else to their numbers.
        classwise: Whether the results hold ``AP_<class>`` too.
        kwargs: As for :class:`TaskMetric`; the task is ``'det'``, the target
            ``'gt_instances'``.

    Raises:
        ImportError: If ``pycocotools`` is not installed.
        ValueError: If boxes or labels do not fit.
    """

    TASK = 'det'
    TARGET = 'gt_instances'

    def __init__(
        self,
        classes: Sequence[str] | None = None,
        classwise: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.classes = classes
        self.classwise = classwise
        # Now, not after an epoch of training.
        _pycocotools()

    def measure(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """Boxes of one image."""
        pred = require_prediction(sample, self.target, type(self).__name__)
        truth, ignored = sample[self.target], sample.get('ignored_instances', {})
        crowds = _boxes(ignored)
        labels = ignored.get('labels')
        if 'labels' not in truth:
            raise ValueError(
                f'DetectionMetric: {self.target!r} of {sample.get("img_path")!r} has '
                f"the fields {sorted(truth)}, expected 'labels' too. Let the pipeline "
                'pack gt_bboxes_labels.'
            )
        result = dict(
            truth=_boxes(truth),
            truth_labels=to_array(truth['labels']).astype(int),
            crowds=crowds,
            # -1: of every class.
            crowd_labels=np.full(len(crowds), -1)
            if labels is None
            else to_array(labels).astype(int),
            boxes=_boxes(pred),
            scores=to_array(pred['scores']),
            labels=to_array(pred['labels']).astype(int),
        )
        self._check(sample, result)
        return result

    def _check(self, sample: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        where = f'DetectionMetric: {sample.get("img_path")!r}'
        if not all(np.isfinite(result[key]).all() for key in ('boxes', 'scores')):
            raise ValueError(
                f'{where} has predicted boxes or scores that are not finite. The model '
                'has diverged: see its losses.'
            )
        if 'ori_shape' not in sample:
            return
        height, width = sample['ori_shape'][:2]
        original = (int(height), int(width))
        truth = np.concatenate([result['truth'], result['crowds']])
        if _was_resized(sample, original) or _outside(truth, original):
            raise ValueError(
                f'{where} is {original} (height, width), but its true boxes are not in '
                f'pixels of this size ({truth[:3].tolist()}, ...). Read '
                'them (LoadTargets) after Resize in the test pipeline.'
            )

    def summarise(self, results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """COCO's results."""
        names = self._names(results)
        precision, recall = coco_arrays(results, len(names))
        every = _AREAS['all']
        values = dict(
            mAP=_mean(precision[..., every]),
            AP50=_mean(precision[0, ..., every]),
            AP75=_mean(precision[5, ..., every]),
        )
        for size in ('s', 'm', 'l'):
            values[f'AP_{size}'] = _mean(precision[..., _AREAS[size]])
        values['AR100'] = _mean(recall[..., every])
        table = PrettyTable(['class', 'AP', 'AP50', 'AP75', 'boxes'])
        for k, name in enumerate(names):
            own = precision[:, :, k, every]
            count = sum(int((image['truth_labels'] == k).sum()) for image in results)
            row = [_mean(own), _mean(own[0]), _mean(own[5])]
            table.add_row([name, *(f'{value:.2f}' for value in row), count])
            if self.classwise:
                values[f'AP_{name}'] = row[0]
        print_log(f'{self.prefix}:\n{table.get_string()}', logger='current')
        return values

    def _names(self, results: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
        keys = ('truth_labels', 'crowd_labels', 'labels')
        highest = max(
            int(image[key].max(initial=-1)) for image in results for key in keys
        )
        names = class_names(self.dataset_meta, self.task, self.classes)
        if names is None:
            return tuple(str(k) for k in range(highest + 1))
        if highest >= len(names):
            raise ValueError(
                f'DetectionMetric: a box has the label {highest}, expected one below '
                f'{len(names)}, the number of classes {list(names)}. Make num_classes '
                'of the head and the classes of the data set agree.'
            )
        return names


def coco_arrays(
    results: Sequence[Mapping[str, Any]], num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall of COCO, NaN where a class has no true box.

    Args:
        results: What :meth:`DetectionMetric.measure` gave.
        num_classes: Number of classes K.

    Shape:
        - precision: (10 IoU thresholds, 101 recalls, K, 4 areas)
        - recall: (10, K, 4)
    """
    truths, detections = [], []
    for i, image in enumerate(results):
        for box, label in zip(image['truth'], image['truth_labels'], strict=True):
            truths.append(_annotation(i, box, label))
        for box, label in zip(image['crowds'], image['crowd_labels'], strict=True):
            for k in range(num_classes) if label < 0 else [label]:
                truths.append(_annotation(i, box, k, iscrowd=1))
        for box, score, label in zip(
            image['boxes'], image['scores'], image['labels'], strict=True
        ):
            detections.append(_annotation(i, box, label, score=float(score)))
    coco, cocoeval = _pycocotools()
    # It prints its progress.
    with contextlib.redirect_stdout(io.StringIO()):
        sets = []
        for annotations in (truths, detections):
            numbered = [dict(a, id=n + 1) for n, a in enumerate(annotations)]
            one = coco.COCO()
            one.dataset = dict(
                images=[dict(id=i) for i in range(len(results))],
                categories=[dict(id=k) for k in range(num_classes)],
                annotations=numbered,
            )
            one.createIndex()
            sets.append(one)
        run = cocoeval.COCOeval(*sets, iouType='bbox')
        run.evaluate()
        run.accumulate()
    arrays = run.eval['precision'][..., _MOST], run.eval['recall'][..., _MOST]
    precision, recall = (np.where(values < 0, np.nan, values) for values in arrays)
    return precision, recall


def _annotation(image: int, box: np.ndarray, label: int, **more: Any) -> dict[str, Any]:
    x1, y1, x2, y2 = (float(v) for v in box)
    width, height = x2 - x1, y2 - y1
    return dict(
        image_id=image,
        category_id=int(label),
        bbox=[x1, y1, width, height],
        area=width * height,
        **dict(dict(iscrowd=0), **more),
    )


def _boxes(instances: Mapping[str, Any]) -> np.ndarray:
    """(N, 4) xyxy, no box where the field lacks."""
    return to_array(instances.get('bboxes', ())).reshape(-1, 4)


def _was_resized(sample: Mapping[str, Any], original: tuple[int, int]) -> bool:
    """Whether a truth map of the sample shows that the truth was resized."""
    shapes = [
        tuple(value['data'].shape[-2:])
        for key, value in sample.items()
        if key.startswith('gt_') and isinstance(value, Mapping) and 'data' in value
    ]
    resized = tuple(sample.get('img_shape', original)[:2])
    return resized != original and resized in shapes and original not in shapes


def _outside(boxes: np.ndarray, size: tuple[int, int]) -> bool:
    """Whether a box reaches more than a pixel out of the image."""
    limits = (size[1] + 1, size[0] + 1) * 2
    return bool((boxes < -1).any() or (boxes > limits).any())


def _mean(values: np.ndarray) -> float:
    return 100 * mean_known(values.ravel())


def _pycocotools() -> tuple[Any, Any]:
    """Its two modules."""
    try:
        return (
            importlib.import_module('pycocotools.coco'),
            importlib.import_module('pycocotools.cocoeval'),
        )
    except ImportError as error:
        raise ImportError(
            'DetectionMetric needs pycocotools, which cannot be imported '
            f'({error}): pip install pycocotools. Or take the metric out of the '
            'evaluator.'
        ) from error
