"""Which fields of a data sample belong to further tasks, and of what kind they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from mmengine.structures import BaseDataElement, InstanceData, LabelData, PixelData
from mmseg.structures import SegDataSample

IGNORED = 255
# Fields that have one meaning: kind of the target in the data set, and what the tiles
# are called.
_FIXED = dict(
    depth_map=('depth', 'depth'),
    normal_map=('normal', 'normals'),
    edge_map=('edge', 'edges'),
    instances=('boxes', 'boxes'),
    label=('image_labels', 'image labels'),
)
_ORDER = ('label', 'depth', 'value', 'normal', 'edge', 'boxes', 'image_labels')


@dataclasses.dataclass(frozen=True)
class TaskPair:
    """Truth and prediction of one task; either may lack.

    Args:
        name: What the tiles are called.
        kind: ``'label'``, ``'depth'``, ``'value'``, ``'normal'``, ``'edge'``,
            ``'boxes'`` or ``'image_labels'``.
        truth: Field of the sample.
        pred: Field of the sample.
        fields: What the metainfo of the data set says about the target.
    """

    name: str
    kind: str
    truth: Any
    pred: Any
    fields: Mapping[str, Any]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, as far as they are known."""
        classes = self.fields.get('classes')
        return tuple(classes) if isinstance(classes, list | tuple) else ()

    @property
    def unit(self) -> str | None:
        """Unit of the values."""
        return self.fields.get('unit') or ('m' if self.kind == 'depth' else None)

    def maps(self) -> list[tuple[str, np.ndarray]]:
        """What there is of truth and prediction, as float32 (C, H, W)."""
        both = (('truth', self.truth), ('prediction', self.pred))
        return [
            (f'{self.name}: {n}', to_array(m.data)) for n, m in both if m is not None
        ]


def find_pairs(
    sample: SegDataSample | None,
    targets: Mapping[str, Mapping[str, Any]],
    draw_gt: bool = True,
    draw_pred: bool = True,
) -> list[TaskPair]:
    """The further tasks of a sample, in the order in which they are drawn.

    Args:
        sample: The data sample.
        targets: What the data set says of each target: ``kind``, ``classes``, ``unit``,
            ``palette``.
        draw_gt: Whether truth counts.
        draw_pred: Whether predictions count.
    """
    fields = {} if sample is None else dict(sample.items())
    truth = _with_prefix(fields, 'gt_') if draw_gt else {}
    pred = _with_prefix(fields, 'pred_') if draw_pred else {}
    pairs = [
        _pair(name, truth.get(name), pred.get(name), targets)
        for name in sorted({*truth, *pred} - {'sem_seg'})
    ]
    known = [pair for pair in pairs if pair is not None]
    return sorted(known, key=lambda pair: _ORDER.index(pair.kind))


def _with_prefix(fields: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {
        key.removeprefix(prefix): value
        for key, value in fields.items()
        if key.startswith(prefix)
    }


def _pair(
    name: str, truth: Any, pred: Any, targets: Mapping[str, Mapping[str, Any]]
) -> TaskPair | None:
    """Truth and prediction of a field, None where it is of no kind that is drawn."""
    data = [field for field in (truth, pred) if field is not None]
    kind, title = _FIXED.get(name, ('', name))
    if kind == 'boxes':
        fits = all(_has(field, InstanceData, 'bboxes', 'labels') for field in data)
        fits = fits and (pred is None or 'scores' in pred)
    elif kind == 'image_labels':
        fits = truth is None or _has(truth, LabelData, 'label')
        fits = fits and (pred is None or _has(pred, LabelData, 'label', 'score'))
    else:
        channels = 3 if kind == 'normal' else 1
        fits = all(
            _has(field, PixelData, 'data')
            and field.data.ndim == 3
            and field.data.shape[0] == channels
            for field in data
        )
    if not fits:
        return None
    if not kind:
        # Labels, unless all that there is are measured values.
        kind = 'value' if all(_is_float(field) for field in data) else 'label'
        fields = targets.get(name, {})
    else:
        own = [f for f in targets.values() if f.get('kind') == kind]
        fields = own[0] if own else {}
    return TaskPair(title, kind, truth, pred, fields)


def _has(field: Any, kind: type[Any], *names: str) -> bool:
    return isinstance(field, kind) and all(name in field for name in names)


def _is_float(field: BaseDataElement) -> bool:
    data = field.data
    if isinstance(data, torch.Tensor):
        return data.is_floating_point()
    return np.issubdtype(data.dtype, np.floating)


def to_array(values: Any) -> np.ndarray:
    """A tensor or an array, of any type and device, as float32."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().float().numpy()
    return np.asarray(values, np.float32)
