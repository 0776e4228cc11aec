"""SYNTHIA-RAND-CITYSCAPES: rendered street scenes with 16 classes of Cityscapes.

Paper: The SYNTHIA Dataset, CVPR 2016,
https://openaccess.thecvf.com/content_cvpr_2016/html/Ros_The_SYNTHIA_Dataset_CVPR_2016_paper.html.
Images of 1280 x 760 pixels, not for commercial use.
``tools/dataset_converters/synthia.py`` makes the labels.
"""

from __future__ import annotations

from mmseg_xmodal.registry import DATASETS

from .driving import DrivingDataset


@DATASETS.register_module()
class SYNTHIADataset(DrivingDataset):
    """RGB with 16 of the 19 classes: terrain, truck and train never occur.

    The class list is that of Cityscapes, so both go together as they are; with
    ``ontology='synthia16'`` in both the three are left out.

    .. code-block:: none

        RGB/ID.png
        GT/LABELS/ID_labelTrainIds.png    made by the converter

    Args:
        kwargs: As for :class:`DrivingDataset`.
    """

    FOLDERS = dict(rgb='RGB', seg_map_path='GT/LABELS')
    SUFFIXES = dict(seg_map='_labelTrainIds.png')
