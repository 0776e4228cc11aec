"""Tiles of further tasks: what a data sample holds besides the main segmentation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from mmseg.structures import SegDataSample

from .colours import (
    Colour,
    colour_labels,
    colour_scalar,
    default_palette,
    error_map,
    percentiles,
)
from .panels import Tile
from .task_fields import IGNORED, TaskPair, find_pairs, to_array
from .task_marks import draw_boxes, draw_lines, label_lines

# Predicted boxes with a lower score are not drawn, and at most so many of the others.
_SCORE = 0.3
_MOST_BOXES = 50
# Behind lines of text: to be told from the white of the panel.
_PAPER = (242, 242, 242)


class TaskPanels:
    """The tiles of all further tasks of a sample, and their part of the legend.

    * ``*_depth_map`` and other maps of floats: colours in one scale for truth and
      prediction (that of the truth), and the absolute error.
    * ``*_<name>`` of integers: a further segmentation, with the data set's palette or
      one made from the class numbers, and an error map.
    * ``*_normal_map``: (n + 1) / 2 as RGB, and the angle between truth and prediction.
    * ``*_edge_map``: dark on white.
    * ``*_instances``: boxes over the picture; of predictions those with a score of at
      least 0.3, 50 at most.
    * ``*_label``: image labels as lines of text.

    Names of classes and units come from ``targets`` in the metainfo of the data set.
    Fields of other kinds are not drawn.

    Args:
        sample: The data sample.
        dataset_meta: Metainfo of the data set.
        draw_gt: Whether to draw truth.
        draw_pred: Whether to draw predictions.

    Attributes:
        legend: Names and colours of the classes in sight.
        has_errors: Whether a tile shows right and wrong pixels.
    """

    def __init__(
        self,
        sample: SegDataSample | None,
        dataset_meta: Mapping[str, Any] | None = None,
        draw_gt: bool = True,
        draw_pred: bool = True,
    ) -> None:
        self.sample = sample
        self.legend: list[tuple[str, Colour | None]] = []
        self.has_errors = False
        targets = (dataset_meta or {}).get('targets') or {}
        self.pairs = find_pairs(sample, targets, draw_gt, draw_pred)

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of the first map, None where there is none."""
        for pair in self.pairs:
            if pair.kind not in ('boxes', 'image_labels'):
                return pair.maps()[0][1].shape[-2:]
        return None

    def tiles(self, size: tuple[int, ...], base: np.ndarray) -> list[Tile]:
        """All tiles.

        Args:
            size: Height and width of the picture.
            base: What boxes are drawn over, RGB.

        Raises:
            ValueError: If a map has another size.

        Shape:
            - base: (H, W, 3), uint8
        """
        tiles: list[Tile] = []
        for pair in self.pairs:
            if pair.kind == 'boxes':
                tiles += self._box_tiles(pair, base)
            elif pair.kind == 'image_labels':
                lines = label_lines(pair.truth, pair.pred, pair.classes)
                image = np.full((*size, 3), _PAPER, np.uint8)
                tiles.append(Tile(image, pair.name, overlay=draw_lines(lines)))
            else:
                _check_size(pair, size)
                draw = dict(
                    label=self._label_tiles, normal=_normal_tiles, edge=_edge_tiles
                ).get(pair.kind, _value_tiles)
                tiles += draw(pair)
        return tiles

    def _label_tiles(self, pair: TaskPair) -> list[Tile]:
        """A further segmentation."""
        maps = [(name, values[0].astype(np.int64)) for name, values in pair.maps()]
        seen = sorted({int(i) for _, ids in maps for i in np.unique(ids)} - {IGNORED})
        count = len(pair.classes) or (seen[-1] + 1 if seen else 1)
        palette = pair.fields.get('palette') or default_palette(count)
        tiles = []
        for name, ids in maps:
            image, outside = colour_labels(ids, palette)
            tiles.append(Tile(image, name, outside, smooth=False))
        for i in seen:
            if 0 <= i < len(palette):
                r, g, b = (int(v) for v in palette[i])
                word = pair.classes[i] if pair.classes else str(i)
                self.legend.append((f'{pair.name}: {word}', (r, g, b)))
        if len(maps) == 2:
            truth, pred = (ids for _, ids in maps)
            ignored = (truth < 0) | (truth >= len(palette))
            image, share = error_map(pred, truth, ignored)
            text = 'nothing labelled' if share is None else f'{share:.1%} wrong'
            caption = f'{pair.name}: error: {text}'
            tiles.append(Tile(image, caption, ignored, smooth=False))
            self.has_errors = True
        return tiles

    def _box_tiles(self, pair: TaskPair, base: np.ndarray) -> list[Tile]:
        """Boxes of truth and prediction over the picture."""
        size = base.shape[:2]
        tiles = []
        if pair.truth is not None:
            boxes = to_array(pair.truth.bboxes).reshape(-1, 4)
            words = _words(to_array(pair.truth.labels), pair.classes)
            ignored = np.empty((0, 4))
            if self.sample is not None and 'ignored_instances' in self.sample:
                ignored = to_array(self.sample.ignored_instances.bboxes).reshape(-1, 4)
            caption = f'{pair.name}: truth, {len(boxes)}'
            if len(ignored):
                caption += f' and {len(ignored)} ignored'
            overlay = draw_boxes(boxes, words, size, ignored)
            tiles.append(Tile(base, caption, overlay=overlay))
        if pair.pred is not None:
            scores = to_array(pair.pred.scores)
            order = np.argsort(-scores, kind='stable')
            good = order[scores[order] >= _SCORE][:_MOST_BOXES]
            boxes = to_array(pair.pred.bboxes).reshape(-1, 4)[good]
            words = _words(to_array(pair.pred.labels)[good], pair.classes)
            marked = [
                (f'{word} {score:.2f}', label)
                for (word, label), score in zip(words, scores[good], strict=True)
            ]
            caption = f'{pair.name}: prediction, {len(good)}'
            if len(good) < len(scores):
                caption += f' of {len(scores)}, score from {_SCORE}'
            overlay = draw_boxes(boxes, marked, size)
            tiles.append(Tile(base, caption, overlay=overlay))
        return tiles


def _value_tiles(pair: TaskPair) -> list[Tile]:
    """Depth or another measured raster, and its error."""
    maps = pair.maps()
    unit = f' {pair.unit}' if pair.unit else ''
    limits = None
    tiles = []
    for name, values in maps:
        valid = np.isfinite(values[0])
        if limits is None and valid.any():
            limits = percentiles(values[0][valid])
        image, ends = colour_scalar(values[0], valid, limits)
        tiles.append(Tile(image, name, ~valid, ends, pair.unit))
    if len(maps) == 2:
        error = np.abs(maps[1][1][0] - maps[0][1][0])
        tiles.append(_error_tile(pair, error, unit, pair.unit))
    return tiles


def _error_tile(pair: TaskPair, error: np.ndarray, ending: str, unit: Any) -> Tile:
    """Colours of an error from 0 to its 99th percentile."""
    valid = np.isfinite(error)
    if not valid.any():
        blank = np.zeros((*error.shape, 3), np.uint8)
        return Tile(blank, f'{pair.name}: error: no truth', ~valid)
    limits = (0.0, percentiles(error[valid])[1])
    image, ends = colour_scalar(error, valid, limits)
    caption = f'{pair.name}: error, mean {error[valid].mean():.3g}{ending}'
    return Tile(image, caption, ~valid, ends, unit)


def _normal_tiles(pair: TaskPair) -> list[Tile]:
    """Directions as colours, and the angle between truth and prediction."""
    maps = pair.maps()
    tiles = []
    for name, values in maps:
        valid = np.isfinite(values).all(0)
        unit = np.clip((np.where(valid, values, -1) + 1) / 2, 0, 1)
        image = np.round(255 * unit).astype(np.uint8).transpose(1, 2, 0)
        tiles.append(Tile(image, name, ~valid))
    if len(maps) == 2:
        (_, a), (_, b) = maps
        with np.errstate(invalid='ignore'):
            dot = (a * b).sum(0)
            cross = np.linalg.norm(np.cross(a, b, axis=0), axis=0)
            angle = np.degrees(np.arctan2(cross, dot))
        tiles.append(_error_tile(pair, angle, ' degrees', 'degrees'))
    return tiles


def _edge_tiles(pair: TaskPair) -> list[Tile]:
    """Probabilities, dark on white."""
    tiles = []
    for name, values in pair.maps():
        valid = np.isfinite(values[0]) & (values[0] != IGNORED)
        grey = 255 * (1 - np.clip(np.where(valid, values[0], 0), 0, 1))
        image = np.repeat(np.round(grey).astype(np.uint8)[..., None], 3, axis=2)
        tiles.append(Tile(image, name, ~valid))
    return tiles


def _words(labels: np.ndarray, classes: tuple[str, ...]) -> list[tuple[str, int]]:
    """Name and number of the class of each box."""
    ids = [int(label) for label in labels]
    return [(classes[i] if 0 <= i < len(classes) else str(i), i) for i in ids]


def _check_size(pair: TaskPair, size: tuple[int, ...]) -> None:
    for name, values in pair.maps():
        if values.shape[-2:] != tuple(size):
            raise ValueError(
                f'{name} has the size {values.shape[-2:]}, the panel {tuple(size)} '
                '(height, width). In the test pipeline the truth is read (LoadTargets) '
                'after Resize, so that it keeps the original size.'
            )
