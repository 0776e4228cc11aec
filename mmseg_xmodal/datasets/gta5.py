"""GTA5: street scenes of a game, with the classes of Cityscapes.

Paper: Playing for Data: Ground Truth from Computer Games, ECCV 2016,
https://arxiv.org/abs/1608.02192. Images of 1914 x 1052 pixels, for research.
``tools/dataset_converters/gta5.py`` makes the labels.
"""

from __future__ import annotations

from mmseg_xmodal.registry import DATASETS

from .driving import DrivingDataset


@DATASETS.register_module()
class GTA5Dataset(DrivingDataset):
    """RGB with all 19 classes.

    .. code-block:: none

        images/ID.png
        labels/ID_labelTrainIds.png    made by the converter

    Args:
        kwargs: As for :class:`DrivingDataset`.
    """

    FOLDERS = dict(rgb='images', seg_map_path='labels')
    SUFFIXES = dict(seg_map='_labelTrainIds.png')
