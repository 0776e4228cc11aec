"""IoU of a further segmentation task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmseg.evaluation import IoUMetric

from mmseg_xmodal.registry import METRICS

from .task_metric import (
    UNLABELLED,
    check_shapes,
    class_names,
    is_labelled,
    labelled_results,
    prediction_field,
    require_prediction,
)

_MAIN = 'gt_sem_seg'


@METRICS.register_module()
class TaskIoUMetric(IoUMetric):
    """mmseg's ``IoUMetric`` for any segmentation task, with partial labels.

    The stock metric reads ``gt_sem_seg``, takes the classes of the data set and fails
    on samples without labels. This one reads ``gt_<task>``, has classes of its own and
    leaves such samples out. Its results are named ``<task>/mIoU`` and so on.

    Also for the main segmentation of data that are labelled in part:
    ``task='seg', target='gt_sem_seg'``.

    Args:
        task: Name of the task.
        target: Field of the data sample with the truth. Defaults to ``gt_<task>``.
        classes: Names of the classes. Defaults to those of the data set:
            ``metainfo['targets'][task]['classes']``, for ``gt_sem_seg`` its
            ``classes``.
        prefix: What the names of the results begin with. Defaults to the task.
        kwargs: As for mmseg's ``IoUMetric``, such as ``ignore_index`` and
            ``iou_metrics``.

    Raises:
        ValueError: If the classes are not known, a prediction is missing or has another
            size than the truth, or no sample is labelled.
    """

    def __init__(
        self,
        task: str,
        target: str | None = None,
        classes: Sequence[str] | None = None,
        prefix: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.task = task
        self.target = target or f'gt_{task}'
        self.prediction = prediction_field(self.target, type(self).__name__)
        self.classes = classes
        super().__init__(prefix=prefix or task, **kwargs)

    @property
    def dataset_meta(self) -> dict | None:
        """Metainfo of the data set, with the classes of the task as ``classes``."""
        meta: dict = self._dataset_meta or {}
        classes = class_names(meta, self.task, self.classes)
        if classes is None and self.target == _MAIN:
            classes = meta.get('classes')
        if not classes:
            raise ValueError(
                f'TaskIoUMetric: the classes of the task {self.task!r} are not known. '
                "Set classes=(...) in the evaluator, or targets[task]['classes'] of "
                'the data set as names.'
            )
        return dict(meta, classes=tuple(classes))

    @dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict) -> None:
        self._dataset_meta = dataset_meta

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Count pixels of a batch; see mmengine."""
        for sample in data_samples:
            if self.format_only or is_labelled(sample, self.task, self.target):
                super().process(data_batch, [self._as_main(sample)])
            else:
                self.results.append(UNLABELLED)

    def _as_main(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """The sample with the task in the place of the main segmentation."""
        owner = type(self).__name__
        pred = require_prediction(sample, self.target, owner)
        main = dict(sample, pred_sem_seg=pred)
        if self.target != _MAIN:
            # That of the sample is about the main labels; mmseg shifts what it writes.
            targets = (self._dataset_meta or {}).get('targets', {})
            zero = targets.get(self.task, {}).get('reduce_zero_label', False)
            main['reduce_zero_label'] = zero
        if self.target in sample:
            truth = sample[self.target]
            shapes = truth['data'].shape, pred['data'].shape
            check_shapes(*shapes, sample, self.target, owner)
            main[_MAIN] = truth
        return main

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Results of the whole data set; see mmengine."""
        if not self.format_only:
            results = labelled_results(results, self, self.task, self.target)
        return super().compute_metrics(results)
