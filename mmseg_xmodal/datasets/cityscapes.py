"""Cityscapes, for batches that it shares with other data sets.

Data: The Cityscapes Dataset for Semantic Urban Scene Understanding, CVPR 2016,
https://arxiv.org/abs/1604.01685, terms: https://www.cityscapes-dataset.com/license/.
``tools/dataset_converters/cityscapes.py`` makes the labels.

mmseg's ``CityscapesDataset`` serves too, but it takes one modality and no ontology, and
its augmentation does not follow the seeds of our samplers.
"""

from __future__ import annotations

from mmseg_xmodal.registry import DATASETS

from .driving import DrivingDataset


@DATASETS.register_module()
class CityscapesXModalDataset(DrivingDataset):
    """RGB, and with ``modalities`` whatever lies beside it, with all 19 classes.

    .. code-block:: none

        leftImg8bit/SPLIT/CITY/NAME_leftImg8bit.png
        gtFine/SPLIT/CITY/NAME_gtFine_labelTrainIds.png    made by the converter
        disparity/SPLIT/CITY/NAME_disparity.png            for a modality `disparity`

    ``split`` is ``'train'`` or ``'val'``.

    Args:
        kwargs: As for :class:`DrivingDataset`.
    """

    FOLDERS = dict(rgb='leftImg8bit', seg_map_path='gtFine')
    SUFFIXES = dict(
        rgb='_leftImg8bit.png',
        disparity='_disparity.png',
        seg_map='_gtFine_labelTrainIds.png',
    )
