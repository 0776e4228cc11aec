"""RGB-D scenes of a game engine, made by ``tools/dataset_converters/vizdoom.py``."""

from __future__ import annotations

from mmseg_xmodal.registry import DATASETS

from .multimodal import MultiModalSegDataset


@DATASETS.register_module()
class ViZDoomDataset(MultiModalSegDataset):
    """Indoor and outdoor game scenes: image, depth and eleven classes.

    Walls, floors and ceilings differ in geometry more than in texture; soldiers,
    demons, trees, pillars, lamps, barrels and items differ in colour and shape. Label
    255 (corpses, gore, projectiles) is ignored.

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
            'ceiling',
            'sky',
            'soldier',
            'demon',
            'tree',
            'pillar',
            'lamp',
            'barrel',
            'item',
        ),
        palette=[
            [128, 128, 128],
            [128, 90, 60],
            [190, 190, 120],
            [90, 190, 240],
            [150, 20, 60],
            [240, 80, 160],
            [40, 170, 40],
            [150, 70, 220],
            [255, 170, 30],
            [240, 50, 40],
            [40, 80, 240],
        ],
    )
