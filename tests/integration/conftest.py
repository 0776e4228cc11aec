from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from .helpers import run_tool, write_config


class Trained(NamedTuple):
    config: Path
    work_dir: Path
    checkpoint: Path
    log: str


@pytest.fixture(scope='session')
def trained(tmp_path_factory: pytest.TempPathFactory, rgbd_root: Path) -> Trained:
    """The tiny CMX after 20 iterations of stock ``train.py``."""
    folder = tmp_path_factory.mktemp('trained')
    config = write_config(folder, 'tiny', rgbd_root)
    log = run_tool('train.py', config)
    return Trained(config, folder / 'tiny', folder / 'tiny' / 'iter_20.pth', log)
