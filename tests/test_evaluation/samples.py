"""Data samples of the tests, and metrics run over them as mmengine does it."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.structures import InstanceData, LabelData, PixelData
from mmseg.structures import SegDataSample


def evaluate(
    metric: BaseMetric, samples: list[SegDataSample], **meta: Any
) -> dict[str, float]:
    """Results over a data set of these samples, in batches of two."""
    evaluator = Evaluator([metric])
    evaluator.dataset_meta = meta
    for start in range(0, len(samples), 2):
        evaluator.process(samples[start : start + 2])
    return evaluator.evaluate(len(samples))


def sample(task_valid: dict[str, bool] | None = None, **fields: Any) -> SegDataSample:
    """A sample with maps (arrays or tensors), instances and labels."""
    out = SegDataSample(metainfo=dict(img_path='a.png'))
    if task_valid is not None:
        out.set_metainfo(dict(task_valid=task_valid))
    for name, value in fields.items():
        if not isinstance(value, InstanceData | LabelData):
            value = PixelData(data=torch.as_tensor(value))
        out.set_data({name: value})
    return out
