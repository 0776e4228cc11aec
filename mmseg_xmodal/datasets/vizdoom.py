"""RGB-D scenes of a game engine, made by ``tools/dataset_converters/vizdoom.py``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

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
        maps: Patterns of the game maps to take, such as ``['freedoom2_*']``: maps make
            domains. Defaults to all. A file is named after its map and its frame.
        kwargs: As for :class:`MultiModalSegDataset`.

    Raises:
        FileNotFoundError: If no frame is of such a map.
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

    def __init__(self, maps: Sequence[str] | None = None, **kwargs: Any) -> None:
        self.maps = None if maps is None else list(maps)
        super().__init__(**kwargs)

    def _wanted_stems(self, found: Mapping[str, set[str]]) -> list[str]:
        stems = super()._wanted_stems(found)
        if self.maps is None or not stems:
            return stems
        names = {stem: stem.rpartition('/')[2].rpartition('_')[0] for stem in stems}
        kept = [s for s in stems if any(fnmatchcase(names[s], m) for m in self.maps)]
        if not kept:
            raise FileNotFoundError(
                f'ViZDoomDataset: no frame in {self.data_prefix[self._main]} is of the '
                f'maps {self.maps}. There are {sorted(set(names.values()))}. Correct '
                'maps.'
            )
        return kept
