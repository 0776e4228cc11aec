"""RGB-D scenes of a game engine, made by ``tools/dataset_converters/vizdoom.py``."""

from __future__ import annotations

from mmseg_xmodal.registry import DATASETS

from .multimodal import MultiModalSegDataset


@DATASETS.register_module()
class ViZDoomDataset(MultiModalSegDataset):
    """Indoor and outdoor game scenes: image, depth and twelve classes.

    Six are surfaces that geometry tells apart: a ledge is a floor more than 0.375 m
    above the one that the camera stands on, a pit one as far below. Six are objects
    that colour and shape tell apart. Label 255 is ignored: corpses, gore, projectiles,
    and floors too far away for a height.

    Shape:
        rgb: (H, W, 3) uint8; depth: (H, W) uint8, metres = stored * scale + offset with
        the numbers of ``configs/_base_/modalities/vizdoom.py``, 0 = no measurement;
        labels: (H, W) uint8.

    Args:
        kwargs: As for :class:`MultiModalSegDataset`.
    """

    METAINFO = dict(
        classes=(
            'wall',
            'floor',
            'ledge',
            'pit',
            'ceiling',
            'sky',
            'monster',
            'tree',
            'pillar',
            'lamp',
            'barrel',
            'item',
        ),
        palette=[
            [128, 128, 128],
            [128, 90, 60],
            [225, 205, 100],
            [60, 45, 110],
            [190, 190, 170],
            [90, 190, 240],
            [240, 80, 160],
            [40, 170, 40],
            [150, 70, 220],
            [255, 170, 30],
            [240, 50, 40],
            [40, 80, 240],
        ],
    )
