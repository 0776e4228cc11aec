"""Cityscapes for segmentation and detection: 19 classes, 8 of them with boxes.

Data: The Cityscapes Dataset for Semantic Urban Scene Understanding, 2016,
https://arxiv.org/abs/1604.01685, terms: https://www.cityscapes-dataset.com/license/.
``tools/dataset_converters/cityscapes_boxes.py`` makes the boxes from the instance ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from mmseg.datasets import CityscapesDataset

from mmseg_xmodal.registry import DATASETS

from .multitask import MultiTaskDataset
from .transforms.target_specs import TargetsCfg

_THINGS = (
    'person',
    'rider',
    'car',
    'truck',
    'bus',
    'train',
    'motorcycle',
    'bicycle',
)


@DATASETS.register_module()
class CityscapesBoxesDataset(MultiTaskDataset):
    """RGB in; 19 classes, boxes of 8, and disparity out.

    .. code-block:: none

        leftImg8bit/SPLIT/CITY/NAME_leftImg8bit.png
        gtFine/SPLIT/CITY/NAME_gtFine_labelTrainIds.png
        annotations/boxes_SPLIT.json                     made by the converter
        disparity/SPLIT/CITY/NAME_disparity.png          for the task disparity

    ``split`` is ``'train'`` or ``'val'``. Tasks: ``det`` (the default) and
    ``disparity``, in pixels of the original image, (stored - 1) / 256, where stored 0
    is no measurement. It is proportional to 1 / depth. No value is put in for the sky,
    and resizing does not change the numbers.

    Args:
        modalities: The config's ``modalities``.
        targets: Names among the tasks, or own ones.
        kwargs: As for :class:`MultiTaskDataset`.
    """

    METAINFO = CityscapesDataset.METAINFO
    FOLDERS = dict(rgb='leftImg8bit', seg_map_path='gtFine')
    SUFFIXES = dict(rgb='_leftImg8bit.png', seg_map='_gtFine_labelTrainIds.png')
    THINGS: ClassVar[tuple[str, ...]] = _THINGS
    TARGETS: ClassVar[TargetsCfg] = dict(
        det=dict(
            kind='boxes', ann_file='annotations/boxes_{split}.json', classes=_THINGS
        ),
        disparity=dict(
            kind='value',
            suffix='_disparity.png',
            scale=1 / 256,
            offset=-1 / 256,
            invalid=0,
            unit='px',
        ),
    )

    def __init__(
        self,
        modalities: Any,
        targets: TargetsCfg | Sequence[str] | None = ('det',),
        **kwargs: Any,
    ) -> None:
        super().__init__(modalities, targets=targets, **kwargs)
