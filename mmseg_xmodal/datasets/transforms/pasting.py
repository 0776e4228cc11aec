"""Put the pixels of an object, with all of its truth, into another sample."""

from __future__ import annotations

import numpy as np

from mmseg_xmodal.structures import ModalityLayout

from .geometry_fields import BOX_KEYS, keep_boxes
from .objects import SampleObject, box_classes, boxes_of, index_of, pixel_window
from .stack import read_values, valid_mask
from .target_specs import dense_keys, kind_of, void_of


def distance_map(sample: dict, name: str, layout: ModalityLayout) -> np.ndarray:
    """Values of a modality or a raster of truth, NaN where there are none.

    Args:
        sample: The sample.
        name: Modality, or key of the raster.
        layout: The modalities of the sample.

    Shape:
        - returns: (H, W)

    Raises:
        ValueError: If there is neither.
    """
    if name in layout:
        values = read_values(sample['img'], layout, name)[..., 0].astype(np.float32)
        values[valid_mask(sample['img'], layout, name) <= 0.5] = np.nan
        return values
    if name in dense_keys(sample):
        return sample[name]
    targets = [spec.key for spec in sample.get('target_specs', {}).values()]
    if name in targets:
        return np.full(sample['img'].shape[:2], np.nan, np.float32)
    raise ValueError(
        f'nearer is {name!r}, but the sample {sample.get("img_path")!r} has the '
        f'modalities {list(layout.names)} and the targets {targets}. Name a modality, '
        'or the key of a target with distances in it.'
    )


def paste(
    results: dict,
    other: dict,
    part: SampleObject,
    pixels: np.ndarray,
    min_visible: float,
) -> None:
    """Paste one object.

    Args:
        results: The sample, changed in place.
        other: The sample that the object comes from.
        part: The object.
        pixels: Row and column there, row and column here.
        min_visible: A box of which a smaller share of its pixels is left goes.

    Shape:
        - pixels: (4, P)
    """
    there, here = (pixels[0], pixels[1]), (pixels[2], pixels[3])
    covered = _covered_boxes(results, here, min_visible)
    if 'gt_bboxes' in results:
        added = _pasted_boxes(results, other, part, pixels)
        keep_boxes(results, ~covered)
        _add_boxes(results, added)
    results['img'][here] = other['img'][there]
    for key in dense_keys(results):
        if key in other:
            results[key][here] = other[key][there]
        else:
            ignore = results.get('ignore_index', 255)
            results[key][here] = void_of(kind_of(results, key), ignore)
    _forget_labels(results, other, bool(covered.any()))


def _covered_boxes(results: dict, here: tuple, min_visible: float) -> np.ndarray:
    """Which boxes have too few pixels left: those of their class, where known."""
    boxes, labels, _ = boxes_of(results)
    size = results['img'].shape[:2]
    pasted = np.zeros(size, bool)
    pasted[here] = True
    seg, classes = results.get('gt_seg_map'), results['sample_source'].classes
    covered = np.zeros(len(boxes), bool)
    for i, box in enumerate(boxes):
        window = pixel_window(box, size)
        own = np.ones(pasted[window].shape, bool)
        seg_id = index_of(box_classes(results), int(labels[i]), classes)
        if seg is not None and seg_id is not None:
            own = seg[window] == seg_id
        hidden = np.count_nonzero(own & pasted[window])
        seen = np.count_nonzero(own) - hidden
        covered[i] = hidden > 0 and seen < min_visible * (hidden + seen)
    return covered


def _pasted_boxes(
    results: dict, other: dict, part: SampleObject, pixels: np.ndarray
) -> list[tuple[np.ndarray, int, bool]]:
    """Box, label and ignore flag of what is pasted, around the pasted pixels."""
    boxes, labels, flags = boxes_of(other)
    added = []
    for index in part.boxes:
        rows, columns = pixel_window(boxes[index], other['img'].shape[:2])
        inside = (pixels[0] >= rows.start) & (pixels[0] < rows.stop)
        inside &= (pixels[1] >= columns.start) & (pixels[1] < columns.stop)
        if inside.any():
            box = _around(pixels[2:, inside])
            added.append((box, int(labels[index]), bool(flags[index])))
    if not part.boxes and 'gt_seg_map' in other:
        seg_id = int(other['gt_seg_map'][pixels[0, 0], pixels[1, 0]])
        classes = results['sample_source'].classes
        label = index_of(classes, seg_id, box_classes(results))
        if label is not None:
            # An object of a class that has boxes, and none is known.
            added.append((_around(pixels[2:]), label, True))
    return added


def _add_boxes(results: dict, added: list[tuple[np.ndarray, int, bool]]) -> None:
    if not added:
        return
    columns = zip(*added, strict=True)
    for key, before, new in zip(BOX_KEYS, boxes_of(results), columns, strict=True):
        results[key] = np.concatenate([before, np.array(new, before.dtype)])


def _around(places: np.ndarray) -> np.ndarray:
    """Box around pixels.

    Shape:
        - places: (2, P), rows and columns
    """
    low, high = places.min(1), places.max(1) + 1
    return np.array((low[1], low[0], high[1], high[0]), np.float32)


def _forget_labels(results: dict, other: dict, lost: bool) -> None:
    """Mark image labels as unknown that pasted or covered objects may change."""
    label = results.get('gt_img_label')
    if label is None or np.ndim(label) == 0:
        return
    label = np.array(label)
    came = other.get('gt_img_label')
    may_be_new = np.ones(label.shape, bool) if came is None else np.asarray(came) != 0
    label[(label == 0) & may_be_new] = -1
    if lost:
        label[label == 1] = -1
    results['gt_img_label'] = label
