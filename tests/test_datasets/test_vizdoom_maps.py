"""Maps of the game as domains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mmengine.registry import DATASETS
from PIL import Image


def test_maps_are_chosen_by_pattern(tmp_path: Path) -> None:
    for name in (
        'freedoom1_E1M8_00038',
        'freedoom1_E2M3_00001',
        'freedoom2_MAP03_00007',
    ):
        for folder in ('rgb', 'labels'):
            path = tmp_path / folder / 'test' / f'{name}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.zeros((4, 4), np.uint8)).save(path)

    def stems(**kwargs: object) -> list[str]:
        dataset = DATASETS.build(
            dict(
                type='mmseg_xmodal.ViZDoomDataset',
                modalities=dict(rgb=dict(channels=3, order='rgb')),
                data_root=str(tmp_path),
                data_prefix=dict(seg_map_path='labels'),
                split='test',
                **kwargs,
            )
        )
        return [Path(dataset[i]['img_path']).stem for i in range(len(dataset))]

    assert len(stems()) == 3
    assert stems(maps=['freedoom2_*']) == ['freedoom2_MAP03_00007']
    assert len(stems(maps=['freedoom1_E1M8', 'freedoom1_E2*'])) == 2
    with pytest.raises(FileNotFoundError, match=r"\['doom'\].*freedoom1_E1M8"):
        stems(maps=['doom'])
