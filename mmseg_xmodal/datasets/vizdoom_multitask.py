"""The scenes of ``tools/dataset_converters/vizdoom.py`` with all of their truth."""

from __future__ import annotations

from typing import Any, ClassVar

from mmseg_xmodal.registry import DATASETS

from .multitask import MultiTaskDataset
from .transforms.target_specs import TargetsCfg
from .vizdoom import ViZDoomDataset

# The objects among the classes, in their order.
_OBJECTS = ('monster', 'tree', 'pillar', 'lamp', 'barrel', 'item')
_MONSTERS = (
    'Zombieman',
    'ShotgunGuy',
    'ChaingunGuy',
    'DoomImp',
    'Demon',
    'Cacodemon',
    'HellKnight',
    'BaronOfHell',
    'Revenant',
)


@DATASETS.register_module()
class ViZDoomMultiTaskDataset(MultiTaskDataset):
    """Game scenes in RGB (or RGB and depth), for four tasks.

    ======== ============================================================ ============
    task     truth                                                        read from
    ======== ============================================================ ============
    seg      twelve classes, see :class:`ViZDoomDataset`                  ``labels``
    det      boxes of ``OBJECTS``; those of fewer than 9 visible pixels   ``boxes_*``
             are ignored
    depth    metres along the viewing direction; sky and what is further  ``depth``
             than 57 m have none
    cls      which of ``MONSTERS`` are in sight; unknown where only some  ``boxes_*``
             pixels of one are
    ======== ============================================================ ============

    With depth as an input, take it out of ``targets``: nothing is left to predict.

    Args:
        modalities: The config's ``modalities``.
        targets: Names among ``TARGETS``, or own ones. Defaults to all three.
        kwargs: As for :class:`MultiTaskDataset`.
    """

    METAINFO = ViZDoomDataset.METAINFO
    FOLDERS = dict(seg_map_path='labels')
    OBJECTS: ClassVar[tuple[str, ...]] = _OBJECTS
    MONSTERS: ClassVar[tuple[str, ...]] = _MONSTERS
    TARGETS: ClassVar[TargetsCfg] = dict(
        det=dict(
            kind='boxes', ann_file='boxes_{split}.json', classes=_OBJECTS, min_area=9
        ),
        depth=dict(
            kind='depth', scale=0.22390625, offset=0.4484375, invalid=0, unit='m'
        ),
        cls=dict(
            kind='image_labels',
            ann_file='boxes_{split}.json',
            from_boxes='type',
            classes=_MONSTERS,
            min_area=9,
        ),
    )

    def __init__(self, modalities: Any, targets: Any = None, **kwargs: Any) -> None:
        super().__init__(modalities, targets=targets, **kwargs)
