"""SUN RGB-D: indoor RGB-D from four sensors, 5285 training and 5050 test images.

Paper: SUN RGB-D: A RGB-D Scene Understanding Benchmark Suite, CVPR 2015. The layout is
that of the DFormer package.
"""

from __future__ import annotations

from typing import Any

from mmseg_xmodal.registry import DATASETS

from .lists import ListedSegDataset
from .nyudv2 import NYUDepthV2Dataset


@DATASETS.register_module()
class SUNRGBDDataset(ListedSegDataset):
    """RGB with depth or HHA, the first 37 classes of NYU Depth V2; label 0 is void.

    Lists are ``train.txt`` and ``test.txt``. Images differ in size.

    Shape:
        rgb, hha: (H, W, 3) uint8; depth: (H, W) or (H, W, 4) uint8; labels: (H, W)
        uint8, 0 to 37.

    Args:
        reduce_zero_label: Whether the files count from 1, with 0 for void.
        kwargs: As for :class:`MultiModalSegDataset`.
    """

    METAINFO = dict(
        classes=NYUDepthV2Dataset.METAINFO['classes'][:37],
        palette=NYUDepthV2Dataset.METAINFO['palette'][:37],
    )
    FOLDERS = dict(rgb='RGB', hha='HHA', depth='Depth', seg_map_path='labels')
    SUFFIXES = dict(rgb='.jpg', hha='.jpg')

    def __init__(
        self, *args: Any, reduce_zero_label: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(*args, reduce_zero_label=reduce_zero_label, **kwargs)
