"""Load label maps whose files are no plain grey images."""

from __future__ import annotations

import functools
import os.path as osp
from typing import Any

import numpy as np
from mmseg.datasets.transforms import LoadAnnotations
from PIL import Image

from mmseg_xmodal.registry import TRANSFORMS

_LARGEST = 255


@functools.cache
def check_label_file(path: str | None) -> None:
    """Refuse a label map that mmseg's cast to uint8 would change without a word.

    Once per file and process, and of an 8 bit file only the header is read. Files that
    are not on a local disk pass.

    Raises:
        ValueError: If a file of more than 8 bits holds ids below 0 or above 255.
    """
    if path is None or not osp.isfile(path):
        return
    with Image.open(path) as image:
        # One byte a channel, but for 'I' (int32), 'I;16' (uint16) and 'F' (float32).
        if image.mode[0] not in 'IF':
            return
        labels = np.asarray(image)
    if labels.min() >= 0 and labels.max() <= _LARGEST:
        return
    raise ValueError(
        f'The label map {path!r} stores {labels.dtype} with ids up to {labels.max()}, '
        f'expected 0 to {_LARGEST}: mmseg reads label maps as uint8, where {_LARGEST} '
        'is ignored. Write the files as uint8, with the ids of the classes counted '
        'from 0.'
    )


@TRANSFORMS.register_module()
class LoadLabels(LoadAnnotations):
    """mmseg's ``LoadAnnotations`` for files that may have several channels.

    Args:
        channel: The channel that holds the class ids, counted from 0 in the order of
            the file (red, green, blue, alpha). A file with one channel is read as it
            is.
        kwargs: As for mmseg's ``LoadAnnotations``.

    Shape:
        - gt_seg_map: (H, W) uint8
    """

    def __init__(self, channel: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.channel = channel

    def _load_seg_map(self, results: dict) -> None:
        super()._load_seg_map(results)
        labels = results['gt_seg_map']
        if labels.ndim == 2:
            return
        if not 0 <= self.channel < labels.shape[-1]:
            raise ValueError(
                f'LoadLabels: {results["seg_map_path"]!r} has {labels.shape[-1]} '
                f'channels, expected channel {self.channel} among them, counted from '
                '0. Change `channel` of LoadLabels.'
            )
        # mmcv turns the first three channels around, to BGR.
        turned = labels.shape[-1] >= 3 and self.channel < 3
        place = 2 - self.channel if turned else self.channel
        results['gt_seg_map'] = labels[..., place].copy()

    def __repr__(self) -> str:
        return f'{super().__repr__()[:-1]}, channel={self.channel})'
