"""NYU Depth V2: indoor RGB-D, 795 training and 654 test images.

Paper: Indoor Segmentation and Support Inference from RGBD Images, ECCV 2012. The layout
is that of the SA-Gate, CMX and DFormer packages. mmseg's ``NYUDataset`` is another one,
for depth estimation.
"""

from __future__ import annotations

from typing import Any

from mmseg_xmodal.registry import DATASETS
from mmseg_xmodal.structures.palette import class_colours

from .lists import ListedSegDataset


@DATASETS.register_module()
class NYUDepthV2Dataset(ListedSegDataset):
    """RGB with HHA or depth, 40 classes; label 0 of the files is void.

    Lists are ``train.txt`` and ``test.txt``.

    Shape:
        rgb, hha: (480, 640, 3) uint8; depth: (480, 640) or (480, 640, 4) uint8;
        labels: (480, 640) uint8, 0 to 40.

    Args:
        reduce_zero_label: Whether the files count from 1, with 0 for void.
        kwargs: As for :class:`MultiModalSegDataset`.
    """

    METAINFO = dict(
        classes=(
            'wall',
            'floor',
            'cabinet',
            'bed',
            'chair',
            'sofa',
            'table',
            'door',
            'window',
            'bookshelf',
            'picture',
            'counter',
            'blinds',
            'desk',
            'shelves',
            'curtain',
            'dresser',
            'pillow',
            'mirror',
            'floor mat',
            'clothes',
            'ceiling',
            'books',
            'refrigerator',
            'television',
            'paper',
            'towel',
            'shower curtain',
            'box',
            'whiteboard',
            'person',
            'night stand',
            'toilet',
            'sink',
            'lamp',
            'bathtub',
            'bag',
            'otherstructure',
            'otherfurniture',
            'otherprop',
        ),
        palette=class_colours(41)[1:],
    )
    FOLDERS = dict(rgb='RGB', hha='HHA', depth='Depth', seg_map_path='Label')
    SUFFIXES = dict(rgb='.jpg', hha='.jpg')

    def __init__(
        self, *args: Any, reduce_zero_label: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(*args, reduce_zero_label=reduce_zero_label, **kwargs)
