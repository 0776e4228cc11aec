from __future__ import annotations

import os
from pathlib import Path

# Two processes of the suite share the cores of a small machine.
os.environ.setdefault('OMP_NUM_THREADS', '1')
os.environ.setdefault('MKL_NUM_THREADS', '1')

import pytest
import torch
from mmengine.registry import DefaultScope

from tests import plain_configs  # noqa: F401
from tests.synthetic import make_rgbd

torch.set_num_threads(1)

MODALITIES = dict(
    rgb=dict(
        channels=3,
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        order='rgb',
    ),
    depth=dict(channels=1, mean=[120.0], std=[60.0], dtype='uint8', invalid=0),
)


@pytest.fixture(autouse=True)
def _mmseg_scope():
    """Configs are written for ``default_scope='mmseg'``; so are the tests."""
    import mmseg.datasets
    import mmseg.engine
    import mmseg.evaluation
    import mmseg.models
    import mmseg.visualization  # noqa: F401

    with DefaultScope.overwrite_default_scope('mmseg'):
        yield


@pytest.fixture
def modalities() -> dict:
    """The ``modalities`` dict of the synthetic RGB-D data set."""
    return {name: dict(fields) for name, fields in MODALITIES.items()}


@pytest.fixture(scope='session')
def rgbd_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic RGB-D data set, 8 images a split, 64 x 96."""
    root = tmp_path_factory.mktemp('rgbd')
    make_rgbd(root)
    return root
