"""PST900: underground scenes in RGB and thermal.

Paper: PST900: RGB-Thermal Calibration, Dataset and Segmentation Network, ICRA 2020,
https://arxiv.org/abs/1909.10980.
"""

from __future__ import annotations

from mmseg_xmodal.registry import DATASETS
from mmseg_xmodal.structures.palette import class_colours

from .multimodal import MultiModalSegDataset


@DATASETS.register_module()
class PST900Dataset(MultiModalSegDataset):
    """RGB with thermal, 5 classes, background being one of them.

    ``data_root`` is the folder of one split, ``.../train`` or ``.../test``.

    Shape:
        rgb: (720, 1280, 3) uint8; thermal: (720, 1280) uint8; labels: (720, 1280)
        uint8, 0 to 4.

    Args:
        kwargs: As for :class:`MultiModalSegDataset`.
    """

    METAINFO = dict(
        classes=(
            'background',
            'fire extinguisher',
            'backpack',
            'hand drill',
            'survivor',
        ),
        palette=class_colours(5),
    )
    FOLDERS = dict(seg_map_path='labels')
