"""What the targets of a multi-task data set are: kinds, files, keys of the sample."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

TargetsCfg: TypeAlias = Mapping[str, Mapping[str, Any]]

FLOAT_KINDS = frozenset({'depth', 'normal', 'value'})
DENSE_KINDS = frozenset({'label', 'edge'}) | FLOAT_KINDS
IGNORE = 255

_FILES = frozenset({'folder', 'suffix', 'invalid', 'npz_key'})
_RASTER = _FILES | {'channel'}
_UNITS = _RASTER | {'scale', 'offset', 'unit'}
_FIELDS: dict[str, frozenset[str]] = dict(
    label=_RASTER | {'classes', 'reduce_zero_label'},
    depth=_UNITS,
    value=_UNITS,
    normal=_FILES | {'signs'},
    edge=_RASTER | {'threshold'},
    boxes=frozenset({'ann_file', 'classes', 'bad_boxes', 'min_area'}),
    image_labels=frozenset(
        {'ann_file', 'classes', 'from_boxes', 'min_area', 'multi_label'}
    ),
)
KINDS = tuple(_FIELDS)
# Kinds of which a sample has one at most: their key of the sample is fixed.
_KEYS = dict(
    depth='gt_depth_map',
    normal='gt_normal_map',
    edge='gt_edge_map',
    boxes='gt_bboxes',
    image_labels='gt_img_label',
)
# Keys and fields of a sample that mean something else.
_TAKEN = frozenset(
    {f'gt_{name}' for name in ('seg_map', 'sem_seg', 'instances', 'label', 'keypoints')}
    | {'gt_ignore_flags', 'gt_bboxes_labels', *_KEYS.values()}
)


@dataclasses.dataclass(frozen=True)
class TargetSpec:
    """One target of a data set.

    Args:
        name: Name of the task.
        kind: ``'label'`` (class ids), ``'depth'`` (metres), ``'value'`` (any other
            measured raster), ``'normal'``, ``'edge'``, ``'boxes'`` or
            ``'image_labels'``.
        folder: Folder of the files. Defaults to the name.
        suffix: End of the file names.
        invalid: Stored value that means "no truth here", before scale and offset; in
            normals of all three channels. Default: every stored value counts.
        npz_key: Array in npz files. Defaults to the only one.
        channel: The channel to read of files that have several, counted from 0 in the
            order of the file (red, green, blue).
        scale: value = stored * scale + offset.
        offset: See ``scale``.
        unit: Name of the unit, for panels and messages.
        classes: Names of the classes, in the order of their ids; for ``'label'`` also
            their number. Ids of labels are checked against it.
        reduce_zero_label: Stored 0 is "no class" and the others count from 1.
        threshold: A pixel is an edge where the stored value exceeds this.
        signs: Factors of the three components of normals, for files whose axes differ
            from x right, y down, z to the viewer.
        ann_file: JSON of boxes (COCO) or of names by stem; ``{split}`` in it becomes
            the split.
        bad_boxes: What to do with boxes that have no area or lie outside of the image:
            ``'error'`` or ``'drop'``.
        min_area: Objects with fewer visible pixels (``area`` of the file, else width
            times height) are neither wanted nor wrong: such boxes are ignored, and a
            class that is seen in such boxes alone is unknown (-1).
        from_boxes: Image labels are the names found in the image's boxes:
            ``'category'``, or the field of the annotation that holds the name. Other
            names than ``classes`` say nothing. Default: ``ann_file`` holds the names.
        multi_label: Whether several classes may be present (a multi-hot vector), or
            exactly one is.
        may_be_missing: Samples may lack this target: the task is unlabelled there.

    Raises:
        ValueError: If a field is outside the values listed above.
    """

    name: str
    kind: str
    folder: str = ''
    suffix: str = '.png'
    invalid: float | None = None
    npz_key: str | None = None
    channel: int | None = None
    scale: float = 1.0
    offset: float = 0.0
    unit: str | None = None
    classes: tuple[str, ...] | int | None = None
    reduce_zero_label: bool = False
    threshold: float = 0.0
    signs: tuple[float, ...] = (1.0, 1.0, 1.0)
    ann_file: str | None = None
    bad_boxes: str = 'error'
    min_area: float = 0.0
    from_boxes: str | None = None
    multi_label: bool = True
    may_be_missing: bool = False

    def __post_init__(self) -> None:
        if not self.folder:
            object.__setattr__(self, 'folder', self.name)
        object.__setattr__(self, 'signs', tuple(self.signs))
        if len(self.signs) != 3 or not set(self.signs) <= {1, -1}:
            self._refuse('signs', self.signs, 'three of 1 and -1')
        if self.bad_boxes not in ('error', 'drop'):
            self._refuse('bad_boxes', self.bad_boxes, "'error' or 'drop'")
        if isinstance(self.classes, str):
            self._refuse('classes', self.classes, 'a list of names')
        if self.classes is not None and not isinstance(self.classes, int):
            object.__setattr__(self, 'classes', tuple(self.classes))
        if self.kind in ('boxes', 'image_labels'):
            for field in ('ann_file', 'classes'):
                if not getattr(self, field) or isinstance(getattr(self, field), int):
                    expected = 'a JSON file' if field == 'ann_file' else 'class names'
                    self._refuse(field, getattr(self, field), expected)
            if len(set(self.class_names)) < len(self.class_names):
                self._refuse('classes', self.classes, 'each name once')
            if self.from_boxes is not None and not self.multi_label:
                self._refuse('multi_label', False, 'True with from_boxes')

    def _refuse(self, field: str, got: Any, expected: str) -> None:
        raise ValueError(
            f'targets[{self.name!r}][{field!r}] is {got!r}, expected {expected}. '
            'Change it in the `targets` of the data set.'
        )

    @property
    def dense(self) -> bool:
        """Whether the target is a raster."""
        return self.kind in DENSE_KINDS

    @property
    def key(self) -> str:
        """Key of the sample that holds the target."""
        return _KEYS.get(self.kind, f'gt_{self.name}')

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes; empty where only their number is known."""
        return self.classes if isinstance(self.classes, tuple) else ()

    @property
    def num_classes(self) -> int | None:
        """Number of classes, None where unknown."""
        if isinstance(self.classes, tuple):
            return len(self.classes)
        return self.classes


def build_specs(targets: TargetsCfg) -> dict[str, TargetSpec]:
    """Check the ``targets`` of a data set.

    Args:
        targets: Task name to fields of :class:`TargetSpec`, ``kind`` among them.

    Raises:
        ValueError: If a kind or a field is unknown, a name is taken, or two targets
            share a key of the sample.
    """
    specs: dict[str, TargetSpec] = {}
    owners: dict[str, str] = {}
    for name, cfg in targets.items():
        fields = {**cfg}
        kind = fields.pop('kind', None)
        if kind not in _FIELDS:
            raise ValueError(
                f'targets[{name!r}] has kind={kind!r}, expected one of {list(KINDS)}. '
                'Change it in the `targets` of the data set.'
            )
        allowed = _FIELDS[kind] | {'may_be_missing'}
        unknown = sorted(set(fields) - allowed)
        if unknown:
            raise ValueError(
                f'targets[{name!r}] (kind {kind!r}) has the fields {unknown}, expected '
                f'from {sorted(allowed)}. Correct or remove them.'
            )
        spec = specs[name] = TargetSpec(name=name, kind=kind, **fields)
        taken = kind not in _KEYS and spec.key in _TAKEN
        if taken or name == 'seg' or not name.isidentifier():
            raise ValueError(
                f'targets has the name {name!r}, which is no identifier or stands for '
                'another field of the sample (seg is the main label map, given by '
                "data_prefix['seg_map_path']). Choose another name."
            )
        if spec.key in owners:
            raise ValueError(
                f'targets {owners[spec.key]!r} and {name!r} are both of kind {kind!r}, '
                f'expected one at most: both would be {spec.key!r} of the sample. '
                'Remove one; a second raster of numbers can be of kind value.'
            )
        owners[spec.key] = name
    return specs


def kind_of(results: Mapping[str, Any], key: str) -> str:
    """Kind of a dense key of a sample; what nobody declared is a label map."""
    return results.get('target_kinds', {}).get(key, 'label')


def void_of(kind: str, label_void: float = IGNORE) -> float:
    """What a map of this kind holds where there is no truth.

    Args:
        kind: Its kind.
        label_void: The answer for label maps.
    """
    if kind in FLOAT_KINDS:
        return float('nan')
    return label_void if kind == 'label' else IGNORE


def dense_keys(results: Mapping[str, Any]) -> list[str]:
    """Keys of the label maps and rasters that a sample has."""
    fields: Sequence[str] = results.get('seg_fields', ())
    return [key for key in fields if isinstance(results.get(key), np.ndarray)]
