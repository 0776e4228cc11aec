"""Dark Zurich: street scenes by day, at twilight and at night.

Paper: Guided Curriculum Model Adaptation and Uncertainty-Aware Evaluation for Semantic
Nighttime Image Segmentation, ICCV 2019, https://arxiv.org/abs/1901.05946. Some images
of the night are labelled for validation; labels of the test images are with the server.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmseg_xmodal.registry import DATASETS

from .driving import RGB, DrivingDataset
from .multimodal import LABELS

TIMES = ('day', 'twilight', 'night')
SPLITS = ('train', 'val', 'test')


@DATASETS.register_module()
class DarkZurichXModalDataset(DrivingDataset):
    """RGB with the 19 classes of Cityscapes; labels for validation at night only.

    .. code-block:: none

        rgb_anon/SPLIT/TIME/SEQUENCE/NAME_rgb_anon.png
        gt/val/night/SEQUENCE/NAME_gt_labelTrainIds.png

    as the packages have it.

    Args:
        modalities: The config's ``modalities``. Defaults to RGB.
        split: ``'train'``, ``'val'`` or ``'test'``.
        time: ``'night'``, ``'twilight'`` or ``'day'``.
        kwargs: As for :class:`DrivingDataset`.

    Raises:
        ValueError: If the split or the time is unknown.
    """

    FOLDERS = dict(rgb='rgb_anon', seg_map_path='gt')
    SUFFIXES = dict(rgb='_rgb_anon.png', seg_map='_gt_labelTrainIds.png')

    def __init__(
        self,
        modalities: Any = RGB,
        split: str = 'train',
        time: str = 'night',
        data_prefix: Mapping[str, str | None] | None = None,
        **kwargs: Any,
    ) -> None:
        if split not in SPLITS or time not in TIMES:
            raise ValueError(
                f'DarkZurichXModalDataset has split={split!r} and time={time!r}, '
                f'expected one of {list(SPLITS)} and one of {list(TIMES)}. Change them '
                'in the data set.'
            )
        if (split, time) != ('val', 'night'):
            data_prefix = {LABELS: None, **(data_prefix or {})}
        super().__init__(
            modalities, data_prefix=data_prefix, split=f'{split}/{time}', **kwargs
        )
