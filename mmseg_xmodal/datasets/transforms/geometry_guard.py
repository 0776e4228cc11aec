"""Notice that a stock transform moved a sample whose targets it gets wrong.

Stock transforms move every label map alike. Depth must change with the size of the
image, normals with its direction, and stock crops and rotations forget the boxes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .target_specs import TargetSpec, dense_keys, kind_of

# What stock transforms get wrong, by what they do. Edges: thin ones vanish.
_BROKEN = dict(
    resize=frozenset({'depth', 'edge'}),
    flip=frozenset({'normal'}),
    crop=frozenset({'boxes'}),
    rotate=frozenset({'depth', 'normal', 'value', 'edge', 'boxes'}),
)
_REMEDY = dict(
    resize='mmseg_xmodal.XModalResize or XModalRandomResize',
    flip='mmseg_xmodal.XModalRandomFlip',
    crop='mmseg_xmodal.XModalRandomCrop',
    rotate='mmseg_xmodal.XModalRandomRotate',
)
# Names in mmcv and mmseg.
_STOCK = dict(
    Resize='resize',
    RandomResize='resize',
    RandomChoiceResize='resize',
    ResizeShortestEdge='resize',
    ResizeToMultiple='resize',
    RandomFlip='flip',
    RandomCrop='crop',
    CenterCrop='crop',
    RandomRotate='rotate',
)
_STATE = 'target_geometry'


def mark_geometry(results: dict) -> None:
    """Note that the targets of a sample fit its image as it is now."""
    if 'target_kinds' in results:
        results[_STATE] = _state(results)


def _state(results: Mapping[str, Any]) -> dict[str, Any]:
    scale = results.get('scale_factor')
    return dict(
        flip=results.get('flip_direction') if results.get('flip') else None,
        resize=None if scale is None else tuple(scale),
        crop=tuple(results['img'].shape[:2]),
    )


def check_geometry(results: Mapping[str, Any], who: str) -> None:
    """Refuse a sample that a stock transform moved in a way wrong for its targets.

    Rotation leaves no trace; :func:`check_pipeline` finds that one.

    Args:
        results: The sample.
        who: Who found it, for the error.

    Raises:
        ValueError: If so; it names the transform to use.
    """
    before = results.get(_STATE)
    if before is None:
        return
    now = _state(results)
    moved = [what for what in ('flip', 'resize', 'crop') if now[what] != before[what]]
    if 'resize' in moved and 'crop' in moved:
        moved.remove('crop')  # the size changed with the scale
    kinds = set(results['target_kinds'].values())
    if 'gt_bboxes' in results:
        kinds.add('boxes')
    for what in moved:
        _refuse(what, kinds, f'{who} ({results.get("img_path")!r})', f'a {what}')


def _refuse(what: str, kinds: Iterable[str], where: str, by: str) -> None:
    wrong = sorted(_BROKEN[what] & set(kinds))
    if wrong:
        raise ValueError(
            f'{where}: {by} of mmseg or mmcv comes after LoadTargets, which leaves the '
            f'targets of kind {wrong} wrong. Write type={_REMEDY[what]!r} instead, or '
            'put it before LoadTargets.'
        )


def check_aligned(results: Mapping[str, Any], who: str) -> None:
    """Refuse a sample whose maps have another size than its image.

    Raises:
        ValueError: If so.
    """
    size = tuple(results['img'].shape[:2])
    for key in dense_keys(results):
        if tuple(results[key].shape[:2]) != size:
            raise ValueError(
                f'{who} ({results.get("img_path")!r}): {key} (kind '
                f'{kind_of(results, key)}) has (height, width) = '
                f'{tuple(results[key].shape[:2])}, the image {size}. In the train '
                'pipeline load annotations and targets before any geometry.'
            )


def check_pipeline(pipeline: Any, specs: Mapping[str, TargetSpec], where: str) -> None:
    """Refuse a pipeline with a stock transform that would get targets wrong.

    Args:
        pipeline: Built transforms.
        specs: Targets of the data set.
        where: The data set, for the error.

    Raises:
        ValueError: If a stock transform of that kind comes after ``LoadTargets``.
    """
    _walk(pipeline, False, {spec.kind for spec in specs.values()}, where)


def _walk(part: Any, loaded: bool, kinds: set[str], where: str) -> bool:
    """Go through a transform; returns whether the targets are loaded after it."""
    name = type(part).__name__
    if name == 'LoadTargets':
        return True
    if name == 'Compose' or isinstance(part, list | tuple):
        for child in getattr(part, 'transforms', part):
            loaded = _walk(child, loaded, kinds, where)
        return loaded
    stock = type(part).__module__.split('.')[0] in ('mmcv', 'mmseg')
    if loaded and stock and name in _STOCK:
        resize = getattr(part, 'resize', None)
        # Stock RandomResize is right where it hands the work to ours.
        if resize is None or type(resize).__module__.startswith(('mmcv', 'mmseg.')):
            _refuse(_STOCK[name], kinds, where, name)
    # Another sample is loaded from the start (CopyPaste).
    _walk(getattr(part, 'pipeline', ()), False, kinds, where)
    # Alternatives (RandomChoice, TestTimeAug) each start from here.
    children = getattr(part, 'subroutines', None) or getattr(part, 'transforms', None)
    if isinstance(children, list | tuple) or type(children).__name__ == 'Compose':
        parts = children if isinstance(children, list | tuple) else [children]
        return any([_walk(child, loaded, kinds, where) for child in parts] or [loaded])
    return loaded
