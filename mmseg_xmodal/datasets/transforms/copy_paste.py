"""Copy-paste of objects of rare classes, in all modalities and targets at once.

Paper: Simple Copy-Paste is a Strong Data Augmentation Method for Instance Segmentation,
CVPR 2021, https://arxiv.org/abs/2012.07177. Clean room, nothing copied. What differs:
the objects are those of chosen classes, all modalities and kinds of truth are pasted,
nothing is blurred at the seam, and an object may be hidden by what is nearer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from mmcv.transforms import BaseTransform, Compose
from mmcv.transforms.utils import cache_randomness
from mmseg.registry import TRANSFORMS as MMSEG_TRANSFORMS

from mmseg_xmodal.registry import TRANSFORMS
from mmseg_xmodal.structures import ModalityLayout

from .geometry_guard import check_aligned, check_geometry
from .objects import (
    SampleObject,
    box_classes,
    box_objects,
    index_of,
    region_objects,
)
from .pasting import distance_map, paste
from .sample_source import SampleSource
from .stack import check_stack, layout_of

_OBJECTS = ('regions', 'boxes')


@TRANSFORMS.register_module()
class CopyPaste(BaseTransform):
    """Paste objects of another sample of the same data set into a sample.

    The other sample is drawn by index from ``sample_source`` (the data set), under the
    seed of this sample, and loaded by ``pipeline``: the result depends neither on the
    number of workers nor on where a run was resumed.

    In the pixels of an object, the values and the validity of every modality, the label
    maps and all rasters of truth become those of the other sample; where that one lacks
    a target, the truth there becomes unknown. Boxes go along (matched to the classes of
    the label map by name); a pasted object of which no box is known becomes an ignored
    one; a box whose object is covered goes. Multi-hot image labels become unknown (-1)
    where they may have changed.

    Required keys: ``img``, ``sample_source``, ``modality_layout``. Added key:
    ``pasted_from``, the ``img_path`` of the other sample, None where nothing was
    pasted.

    Args:
        classes: Names or ids of the classes to copy: of the main label map, with
            ``objects='boxes'`` of the boxes.
        pipeline: Transforms, or their configs, that load the other sample: the same
            loaders as here, and geometry if it is to differ (as
            :class:`XModalRandomFlip`).
        prob: Probability of pasting at all.
        max_objects: Largest number of objects pasted; that many are drawn of those
            found.
        objects: ``'regions'``, connected regions of the label map, or ``'boxes'``,
            whole rectangles, for data without a label map.
        nearer: Modality, or key of a raster of truth, in which a smaller value is
            nearer: only pixels are pasted that are nearer than what is there, or where
            nothing is known there. Defaults to pasting all.
        min_pixels: Smaller objects are not copied.
        min_visible: Share of an object that must be seen, of the pasted one and of
            those below it, in [0, 1].
        max_shift: Objects are moved sideways by up to this share of the width.
        tries: Number of samples that are looked at for an object of the classes.
        sources: Indices of samples to draw from, such as those known to show the
            classes. Defaults to all.
        generator: Source of the draws. Defaults to numpy's global state, which the
            seeded samplers set for each sample.

    Raises:
        ValueError: If an argument is outside the values listed above.
    """

    def __init__(
        self,
        classes: Sequence[str | int],
        pipeline: Sequence[dict | Callable],
        prob: float = 0.5,
        max_objects: int = 3,
        objects: str = 'regions',
        nearer: str | None = None,
        min_pixels: int = 16,
        min_visible: float = 0.25,
        max_shift: float = 0.0,
        tries: int = 4,
        sources: Sequence[int] | None = None,
        generator: np.random.Generator | None = None,
    ) -> None:
        ranges = dict(prob=prob, min_visible=min_visible, max_shift=max_shift)
        wrong = {name: v for name, v in ranges.items() if not 0 <= v <= 1}
        if wrong or objects not in _OBJECTS or max_objects < 1 or tries < 1:
            raise ValueError(
                f'CopyPaste: {ranges}, {objects=}, {max_objects=}, {tries=}; expected '
                f'numbers in [0, 1], objects from {_OBJECTS}, and at least 1.'
            )
        for name, value in (('classes', classes), ('sources', sources)):
            if isinstance(value, str) or (value is not None and len(value) == 0):
                raise ValueError(
                    f'CopyPaste: {name} is {value!r}, expected a list with something '
                    'in it.'
                )
        self.classes = tuple(classes)
        self.pipeline = Compose(
            [
                MMSEG_TRANSFORMS.build(t) if isinstance(t, Mapping) else t
                for t in pipeline
            ]
        )
        self.prob, self.max_objects, self.tries = prob, max_objects, tries
        self.objects, self.nearer = objects, nearer
        self.min_pixels, self.min_visible = min_pixels, min_visible
        self.max_shift = max_shift
        self.sources = None if sources is None else tuple(sources)
        self.generator = generator

    def transform(self, results: dict) -> dict:
        """Paste into one sample.

        Raises:
            ValueError: If the sample comes from no data set of this package, a class or
                ``nearer`` is unknown, or a transform before got targets wrong.
        """
        layout = layout_of(results, None, self)
        source = results.get('sample_source')
        if not isinstance(source, SampleSource):
            raise ValueError(
                f'CopyPaste got the sample {results.get("img_path")!r} without '
                "'sample_source', expected one of a MultiModalSegDataset. Use such a "
                'data set, and CopyPaste in the train pipeline only.'
            )
        self._prepare(results, layout)
        results['pasted_from'] = None
        go, indices, seed = self._draw(len(source))
        for index in indices if go else ():
            other = self.pipeline(source.info(index))
            if other is None:
                continue
            self._prepare(other, layout)
            found = self._find(other, source)
            if found:
                self._paste_some(results, other, found, layout, seed)
                break
        return results

    @cache_randomness
    def _draw(self, length: int) -> tuple[bool, list[int], int]:
        """Whether to paste, the samples to look at, and a seed for the objects."""
        rng = np.random if self.generator is None else self.generator
        pool = range(length) if self.sources is None else self.sources
        go = rng.random() < self.prob
        indices = [pool[int(rng.random() * len(pool))] for _ in range(self.tries)]
        return go, indices, int(rng.random() * 2**32)

    def _prepare(self, sample: dict, layout: ModalityLayout) -> None:
        where = f'CopyPaste ({sample.get("img_path")!r})'
        sample['img'] = check_stack(sample['img'], layout, where)
        check_geometry(sample, 'CopyPaste')
        check_aligned(sample, 'CopyPaste')

    def _find(self, other: dict, source: SampleSource) -> list[SampleObject]:
        names = box_classes(other)
        if self.objects == 'boxes':
            ids = self._ids(names, 'of the boxes')
            return box_objects(other, ids, self.min_pixels)
        ids = self._ids(source.classes, 'of the data set')
        if 'gt_seg_map' not in other:
            return []
        pairs = {i: index_of(source.classes, i, names) for i in ids}
        return region_objects(other, pairs, self.min_pixels)

    def _ids(self, names: Sequence[str], what: str) -> list[int]:
        unknown = [c for c in self.classes if isinstance(c, str) and c not in names]
        if unknown:
            raise ValueError(
                f'CopyPaste: classes has {unknown}, expected names {what}, '
                f'{list(names)}, or ids. Correct classes.'
            )
        return [names.index(c) if isinstance(c, str) else c for c in self.classes]

    def _paste_some(
        self,
        results: dict,
        other: dict,
        found: Sequence[SampleObject],
        layout: ModalityLayout,
        seed: int,
    ) -> None:
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(found))[: self.max_objects]
        limit = self.max_shift * results['img'].shape[1]
        shifts = np.rint(rng.uniform(-limit, limit, len(order))).astype(int)
        for position, shift in zip(order, shifts, strict=True):
            part = found[position]
            pixels = self._visible(results, other, part, int(shift), layout)
            if pixels.shape[1] >= max(self.min_visible * len(part.rows), 1):
                paste(results, other, part, pixels, self.min_visible)
                results['pasted_from'] = other.get('img_path')

    def _visible(
        self,
        results: dict,
        other: dict,
        part: SampleObject,
        shift: int,
        layout: ModalityLayout,
    ) -> np.ndarray:
        """Pixels that are pasted: row and column there, row and column here.

        Shape:
            - returns: (4, P)
        """
        pixels = np.stack([part.rows, part.columns, part.rows, part.columns + shift])
        height, width = results['img'].shape[:2]
        inside = (pixels[2] < height) & (pixels[3] >= 0) & (pixels[3] < width)
        pixels = pixels[:, inside]
        if self.nearer is None:
            return pixels
        there = distance_map(other, self.nearer, layout)[pixels[0], pixels[1]]
        here = distance_map(results, self.nearer, layout)[pixels[2], pixels[3]]
        return pixels[:, (there < here) | (np.isfinite(there) & np.isnan(here))]

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(classes={self.classes}, prob={self.prob}, '
            f'max_objects={self.max_objects}, objects={self.objects!r}, '
            f'nearer={self.nearer!r})'
        )
