"""DELIVER: rendered driving scenes with depth, events and LiDAR, in five conditions.

Paper: Delivering Arbitrary-Modal Semantic Segmentation, CVPR 2023,
https://arxiv.org/abs/2303.01480.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmseg_xmodal.registry import DATASETS
from mmseg_xmodal.structures.palette import class_colours

from .multimodal import MultiModalSegDataset

SPLITS = ('train', 'val', 'test')
CONDITIONS = ('cloud', 'fog', 'night', 'rain', 'sun')
FAILURES = (
    'motionblur',
    'overexposure',
    'underexposure',
    'lidarjitter',
    'eventlowres',
)


@DATASETS.register_module()
class DELIVERDataset(MultiModalSegDataset):
    """RGB with any of HHA, depth, event and LiDAR images; 25 classes; label 0 is void.

    Files are named ``{folder}/{condition}/{split}/{place}/{id}_{kind}_front.png``.
    Label files may have several channels: load them with :class:`LoadLabels`. Event
    images may be smaller: give ``LoadModalities`` ``resize_to='rgb'``.

    Shape:
        rgb, hha, event, lidar: (1042, 1042, 3) uint8, or more channels; labels: in the
        first channel, uint8, 0 to 25.

    Args:
        modalities: The config's ``modalities``: ``rgb``, ``hha``, ``depth``, ``event``,
            ``lidar``, or others with ``data_prefix`` and ``suffixes``.
        split: ``'train'``, ``'val'`` or ``'test'``.
        conditions: Which weather to take. Defaults to all.
        failure: Take only samples of this failing sensor. Defaults to all samples.
        reduce_zero_label: Whether the files count from 1, with 0 for void.
        kwargs: As for :class:`MultiModalSegDataset`.

    Raises:
        ValueError: If the split, a condition or the failure is unknown.
    """

    METAINFO = dict(
        classes=(
            'building',
            'fence',
            'other',
            'pedestrian',
            'pole',
            'road line',
            'road',
            'sidewalk',
            'vegetation',
            'cars',
            'wall',
            'traffic sign',
            'sky',
            'ground',
            'bridge',
            'rail track',
            'ground rail',
            'traffic light',
            'static',
            'dynamic',
            'water',
            'terrain',
            'two-wheeler',
            'bus',
            'truck',
        ),
        palette=class_colours(26)[1:],
    )
    FOLDERS = dict(rgb='img', seg_map_path='semantic')
    SUFFIXES = dict(
        rgb='_rgb_front.png',
        hha='_depth_front.png',
        depth='_depth_front.png',
        event='_event_front.png',
        lidar='_lidar_front.png',
        seg_map='_semantic_front.png',
    )

    def __init__(
        self,
        modalities: Any,
        split: str = 'train',
        conditions: Sequence[str] = CONDITIONS,
        failure: str | None = None,
        reduce_zero_label: bool = True,
        **kwargs: Any,
    ) -> None:
        # One string for several conditions would be taken letter by letter.
        several = [] if isinstance(conditions, str) else list(conditions)
        _check('split', split, [split], SPLITS)
        _check('conditions', conditions, several, CONDITIONS)
        _check('failure', failure, [failure], (None, *FAILURES))
        self.part, self.conditions, self.failure = split, set(conditions), failure
        super().__init__(modalities, reduce_zero_label=reduce_zero_label, **kwargs)

    def _stems(self, key: str) -> set[str]:
        return {stem for stem in super()._stems(key) if self._wanted(stem)}

    def _wanted(self, stem: str) -> bool:
        condition, _, rest = stem.partition('/')
        return (
            condition in self.conditions
            and rest.split('/')[0] == self.part
            and (self.failure is None or self.failure in rest)
        )


def _check(argument: str, got: Any, values: list, known: Sequence[Any]) -> None:
    if not values or any(value not in known for value in values):
        raise ValueError(
            f'DELIVERDataset: {argument} is {got!r}, expected from {list(known)}. '
            'Change it in the dataset config.'
        )
