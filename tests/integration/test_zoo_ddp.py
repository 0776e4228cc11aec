"""Every backbone trains in two processes: each parameter gets its gradient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mmseg_xmodal.registry import MODELS
from tests.test_registered_parts import BACKBONES, MODALITIES, NEEDS

from .helpers import write_config
from .test_ddp import _reports, _train

SHORT: dict[str, Any] = dict(
    train_cfg=dict(max_iters=2, val_interval=100),
    default_hooks=dict(checkpoint=dict(interval=100), logger=dict(interval=1)),
)
NAMES = [n for n in BACKBONES if 'modalities' in BACKBONES[n] and n not in NEEDS]


@pytest.mark.slow
def test_ranks_agree_for_every_backbone(tmp_path: Path, rgbd_root: Path):
    configs = []
    for name in NAMES:
        arguments = dict(BACKBONES[name], modalities=_modalities())
        backbone = dict(type=f'mmseg_xmodal.{name}', **arguments)
        with torch.device('meta'):
            widths = list(MODELS.build(backbone).out_channels)
        head = dict(in_channels=widths, in_index=[0, 1, 2, 3])
        model = dict(backbone=dict(backbone, _delete_=True), decode_head=head)
        configs.append(write_config(tmp_path, name, rgbd_root, model=model, **SHORT))
    _train(tmp_path, *configs)
    for name in NAMES:
        for report in _reports(tmp_path / name):
            assert report['wrapper'] == 'MMDistributedDataParallel', name
            assert report['equal'], name
            assert report['finite'], name


def _modalities() -> dict[str, Any]:
    numbers = dict(mean=[120.0], std=[60.0])
    return dict(
        rgb=dict(MODALITIES['rgb'], **numbers),
        depth=dict(MODALITIES['depth'], **numbers, dtype='uint8', invalid=0),
    )
