"""MFNet: street scenes in RGB and thermal, by day and by night.

Paper: MFNet: Towards Real-Time Semantic Segmentation for Autonomous Vehicles with
Multi-Spectral Scenes, IROS 2017. 784 training, 392 validation and 393 test images.
"""

from __future__ import annotations

from mmseg_xmodal.registry import DATASETS
from mmseg_xmodal.structures.palette import class_colours

from .lists import ListedSegDataset


@DATASETS.register_module()
class MFNetDataset(ListedSegDataset):
    """RGB with thermal, 9 classes, unlabelled being one of them.

    The folders are those of the original files: four-channel images whose last channel
    is thermal, so the modalities say ``bands=[0, 1, 2]`` and ``bands=[3]``. For copies
    that are split into two folders give ``data_prefix`` and ``suffixes``, without
    ``bands``. Lists are ``train.txt``, ``val.txt`` and ``test.txt``.

    Shape:
        images: (480, 640, 4) uint8; labels: (480, 640) uint8, 0 to 8.

    Args:
        kwargs: As for :class:`MultiModalSegDataset`.
    """

    METAINFO = dict(
        classes=(
            'unlabeled',
            'car',
            'person',
            'bike',
            'curve',
            'car stop',
            'guardrail',
            'color cone',
            'bump',
        ),
        palette=class_colours(9),
    )
    FOLDERS = dict(rgb='images', thermal='images', seg_map_path='labels')
