"""Crops that show the class a sample was drawn for.

Paper: DAFormer, 2022, https://arxiv.org/abs/2111.14887. Official code:
https://github.com/lhoyer/DAFormer (Apache-2.0). Clean room, written from a description.

Difference: the official code runs the whole pipeline again, decoding and resizing
included, where only the crop need be drawn again.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from mmcv.transforms.utils import cache_randomness

from mmseg_xmodal.registry import TRANSFORMS

from .geometry import XModalRandomCrop

# As in mmseg's RandomCrop.
_BALANCE_TRIES = 10


@TRANSFORMS.register_module()
class MinimumClassPixelsCrop(XModalRandomCrop):
    """Crop again until more than ``min_pixels`` pixels are of the sample's rare class.

    ``RareClassSampler`` says which class a sample was drawn for
    (``results['rare_class']``); a sample without one is cropped as by
    :class:`XModalRandomCrop`. After ``max_tries`` further crops the last one stays,
    whatever it shows. All modalities and targets are cut alike.

    Args:
        crop_size: Height and width, or the side of a square, in pixels.
        min_pixels: Pixels of the class that the crop must exceed. DAFormer: 1500 (half
            of the 3000 that its sampler asks of the image); HRDA and MIC: 6000.
        max_tries: How often the crop is drawn again, 0 or more.
        key: Label map with the class, ``'gt_NAME'`` for a further task.
        cat_max_ratio: As for mmseg's ``RandomCrop``, in every try.
        kwargs: As for :class:`XModalRandomCrop`.

    Raises:
        ValueError: If a number is negative.
    """

    _methods_with_randomness: ClassVar[list[str]] = []

    def __init__(
        self,
        crop_size: int | tuple[int, int],
        min_pixels: int = 1500,
        max_tries: int = 10,
        key: str = 'gt_seg_map',
        cat_max_ratio: float = 0.75,
        **kwargs: Any,
    ) -> None:
        super().__init__(crop_size, cat_max_ratio=cat_max_ratio, **kwargs)
        if min_pixels < 0 or max_tries < 0:
            raise ValueError(
                f'MinimumClassPixelsCrop has min_pixels={min_pixels} and max_tries='
                f'{max_tries}, expected 0 or more of both.'
            )
        self.min_pixels, self.max_tries, self.key = min_pixels, max_tries, key

    @cache_randomness
    def crop_bbox(self, results: dict) -> tuple:
        """Draw y1, y2, x1, x2 of the crop, in pixels.

        Raises:
            ValueError: If the sample was drawn for a class and has no label map.
        """
        window = self._balanced_window(results)
        rare = results.get('rare_class')
        if rare is None:
            return window
        if self.key not in results:
            raise ValueError(
                f'MinimumClassPixelsCrop: {results.get("img_path")!r} was drawn for '
                f'the class {rare} and has no {self.key!r}. Put LoadAnnotations before '
                'the crop, or correct key.'
            )
        found = results[self.key] == rare
        if np.count_nonzero(found) <= self.min_pixels:
            return window  # no crop can have more than the image
        for _ in range(self.max_tries):
            if np.count_nonzero(self.crop(found, window)) > self.min_pixels:
                break
            window = self._balanced_window(results)
        return window

    def _balanced_window(self, results: dict) -> tuple:
        """A crop as mmseg's ``RandomCrop`` draws it, from the same random numbers.

        Its own method keeps one crop per cached draw, so it cannot be asked again.
        """
        window = self._window(results)
        labels = results.get('gt_seg_map')
        if self.cat_max_ratio >= 1 or labels is None:
            return window
        for _ in range(_BALANCE_TRIES):
            counts = np.bincount(self.crop(labels, window).ravel(), minlength=1)
            if self.ignore_index < len(counts):
                counts[self.ignore_index] = 0
            several = np.count_nonzero(counts) > 1
            if several and counts.max() / counts.sum() < self.cat_max_ratio:
                break
            window = self._window(results)
        return window

    def _window(self, results: dict) -> tuple:
        (height, width), (h, w) = results['img'].shape[:2], self.crop_size
        y = np.random.randint(0, max(height - h, 0) + 1)  # noqa: NPY002
        x = np.random.randint(0, max(width - w, 0) + 1)  # noqa: NPY002
        return y, y + h, x, x + w

    def __repr__(self) -> str:
        return (
            f'{super().__repr__()[:-1]}, min_pixels={self.min_pixels}, '
            f'max_tries={self.max_tries}, key={self.key!r})'
        )
