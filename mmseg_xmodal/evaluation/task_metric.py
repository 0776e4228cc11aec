"""What the metrics of the tasks have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

# What stands for a sample without truth. Every sample gives one entry: with several
# processes mmengine puts the entries into the order of the samples by their number,
# then cuts off those that the sampler repeated. It drops None, which would shift them.
UNLABELLED: dict[str, Any] = {}


class TaskMetric(BaseMetric):
    """A metric of one task, which some samples may not be labelled for.

    A sample counts if it has the field ``target`` and its ``task_valid`` does not say
    otherwise. The prediction is the field ``pred_X`` for the target ``gt_X``.

    Args:
        task: Name of the task. Defaults to the one in the class's description.
        target: Field of the data sample with the truth.
        prefix: What the names of the results begin with. Defaults to the task.
        collect_device: As in mmengine.
        collect_dir: As in mmengine.

    Raises:
        ValueError: If ``target`` does not begin with ``gt_``; on evaluation, if a
            prediction is missing or does not fit, or no sample is labelled.
    """

    TASK: ClassVar[str]
    TARGET: ClassVar[str]

    def __init__(
        self,
        task: str | None = None,
        target: str | None = None,
        prefix: str | None = None,
        collect_device: str = 'cpu',
        collect_dir: str | None = None,
    ) -> None:
        self.task = task or self.TASK
        self.target = target or self.TARGET
        self.prediction = prediction_field(self.target, type(self).__name__)
        super().__init__(collect_device, prefix or self.task, collect_dir)

    @abstractmethod
    def measure(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """Small numbers of one labelled sample, at least one of them."""

    @abstractmethod
    def summarise(self, results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """The results from what all labelled samples gave."""

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Measure a batch; see mmengine."""
        for sample in data_samples:
            labelled = is_labelled(sample, self.task, self.target)
            self.results.append(self.measure(sample) if labelled else UNLABELLED)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Results of the whole data set; see mmengine."""
        return self.summarise(labelled_results(results, self, self.task, self.target))


def labelled_results(results: list, metric: object, task: str, target: str) -> list:
    """Leave out the samples without truth, and say how many these are.

    Raises:
        ValueError: If none is left.
    """
    name = type(metric).__name__
    kept = [result for result in results if result]
    if not kept:
        raise ValueError(
            f'{name}: none of {len(results)} samples is labelled for the task '
            f'{task!r} (field {target!r}, metainfo task_valid). Read the truth in the '
            'test pipeline (mmseg_xmodal.LoadTargets), or take the metric out of the '
            'evaluator.'
        )
    if len(kept) < len(results):
        print_log(
            f'{name}: {len(results) - len(kept)} of {len(results)} samples are not '
            f'labelled for the task {task!r} and left out.',
            logger='current',
        )
    return kept


def is_labelled(sample: Mapping[str, Any], task: str, target: str) -> bool:
    """Whether a sample, as metrics get it, has truth for a task."""
    return target in sample and sample.get('task_valid', {}).get(task, True)


def prediction_field(target: str, owner: str) -> str:
    """Field of the prediction for a field of the truth.

    Raises:
        ValueError: If ``target`` does not begin with ``gt_``.
    """
    if not target.startswith('gt_') or target == 'gt_':
        raise ValueError(
            f"{owner} has target={target!r}, expected 'gt_<name>', the field of the "
            'data sample with the truth. Change it in the evaluator.'
        )
    return 'pred_' + target.removeprefix('gt_')


def require_prediction(
    sample: Mapping[str, Any], target: str, owner: str
) -> Mapping[str, Any]:
    """The prediction that belongs to a field of truth.

    Raises:
        ValueError: If the model gave none.
    """
    field = prediction_field(target, owner)
    if field not in sample:
        found = sorted(key for key in sample if key.startswith('pred_'))
        raise ValueError(
            f'{owner}: {sample.get("img_path")!r} has the truth {target!r}, but the '
            f'model predicted {found}, expected {field!r} among them. Add the task to '
            'task_heads (and tasks) of the model, or take the metric out of the '
            'evaluator.'
        )
    return sample[field]


def map_pair(
    sample: Mapping[str, Any], target: str, owner: str
) -> tuple[np.ndarray, np.ndarray]:
    """Truth and prediction of a dense task.

    Args:
        sample: A data sample, as metrics get it.
        target: Field of the truth.
        owner: Who asks, for messages.

    Returns:
        Both as float64.

    Shape:
        - truth, prediction: (C, H, W)

    Raises:
        ValueError: If there is no prediction, or their shapes differ.
    """
    truth = to_array(sample[target]['data'])
    pred = to_array(require_prediction(sample, target, owner)['data'])
    check_shapes(truth.shape, pred.shape, sample, target, owner)
    return truth, pred


def check_shapes(
    truth: Sequence[int],
    pred: Sequence[int],
    sample: Mapping[str, Any],
    target: str,
    owner: str,
) -> None:
    """Refuse maps of different shapes.

    Raises:
        ValueError: If they differ.
    """
    if tuple(truth) != tuple(pred):
        raise ValueError(
            f'{owner}: {target!r} of {sample.get("img_path")!r} has the shape '
            f'{tuple(truth)}, its prediction {tuple(pred)}, expected the same. In the '
            'test pipeline the truth is read (LoadTargets, LoadAnnotations) after '
            'Resize, so that it keeps the original size.'
        )


def to_array(values: Any) -> np.ndarray:
    """A tensor or an array, of any type and device, as float64."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().double().numpy()
    return np.asarray(values, np.float64)


def class_names(
    dataset_meta: Mapping[str, Any] | None,
    task: str,
    given: Sequence[str] | int | None,
) -> tuple[str, ...] | None:
    """Names of the classes of a task.

    Args:
        dataset_meta: Metainfo of the data set; ``targets[task]['classes']`` in it are
            the names (its ``classes`` are those of the main segmentation).
        task: Name of the task.
        given: Names in the config, which come first.

    Returns:
        The names; numbers where only their count is known, None where nothing is.
    """
    if given is None:
        fields = (dataset_meta or {}).get('targets', {}).get(task, {})
        given = fields.get('classes')
    if isinstance(given, int):
        given = [str(k) for k in range(given)]
    return tuple(given) if given else None


def mean_known(values: Sequence[float] | np.ndarray) -> float:
    """Mean without NaN; NaN where nothing is left."""
    known = np.asarray(values, np.float64)
    known = known[~np.isnan(known)]
    return float(known.mean()) if known.size else float('nan')


def percent(part: float, whole: float) -> float:
    """A share in percent, NaN of nothing."""
    return 100 * float(part) / float(whole) if whole else float('nan')
