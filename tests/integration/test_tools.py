"""Stock ``train.py`` and ``test.py`` of the installed mmseg."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import cv2
import pytest

from .conftest import Trained
from .helpers import run_tool
from .predictions import PLAIN_VIEWS, check_slide, check_views


def _metrics(work_dir: Path) -> dict[str, float]:
    """Metrics of the one test run in ``work_dir``."""
    (path,) = work_dir.glob('*/*.json')
    return json.loads(path.read_text())


def _test(trained: Trained, work_dir: Path, *args: Any) -> dict[str, float]:
    run_tool(
        'test.py', trained.config, trained.checkpoint, '--work-dir', work_dir, *args
    )
    return _metrics(work_dir)


def _validated(trained: Trained) -> float:
    """The mIoU that training printed at its end."""
    return float(re.findall(r'mIoU: ([\d.]+)', trained.log)[-1])


def test_train_saves_and_validates(trained: Trained):
    assert trained.checkpoint.is_file()
    losses = [float(x) for x in re.findall(r' loss: (\S+)', trained.log)]
    assert len(losses) >= 4
    assert losses[-1] < losses[0]
    assert _validated(trained) > 5


def test_test_repeats_the_validation_and_draws_panels(trained: Trained, tmp_path: Path):
    metrics = _test(
        trained,
        tmp_path / 'w',
        '--show-dir',
        tmp_path / 'show',
        '--out',
        tmp_path / 'o',
    )
    assert metrics['mIoU'] == pytest.approx(_validated(trained), abs=1e-4)
    panels = sorted((tmp_path / 'show').rglob('*.png'))
    assert panels, 'no panel below --show-dir'
    assert cv2.imread(str(panels[0])).std() > 0
    assert len(list((tmp_path / 'o').glob('*.png'))) == 8


def test_slide_inference(trained: Trained):
    check_slide(trained.config, trained.checkpoint)


def test_merged_views(trained: Trained):
    check_views(trained.config, trained.checkpoint)


def test_modality_subsets(trained: Trained, tmp_path: Path):
    metrics = _test(
        trained,
        tmp_path,
        '--cfg-options',
        'test_cfg.type=mmseg_xmodal.ModalitySubsetTestLoop',
    )
    full = metrics['rgb+depth/mIoU']
    assert full == pytest.approx(_validated(trained), abs=1e-4)
    assert {full, metrics['rgb/mIoU'], metrics['depth/mIoU']} != {full}


def test_tta_over_modality_subsets(trained: Trained, tmp_path: Path):
    """Four plain views are plain testing; of others `test_merged_views` knows."""
    metrics = _test(
        trained,
        tmp_path,
        '--tta',
        '--cfg-options',
        'test_cfg.type=mmseg_xmodal.ModalitySubsetTestLoop',
        'test_cfg.subsets=[[rgb,depth],[depth]]',
        *PLAIN_VIEWS,
    )
    assert metrics['rgb+depth/mIoU'] == pytest.approx(_validated(trained), abs=1e-4)
    assert metrics['depth/mIoU'] != metrics['rgb+depth/mIoU']
    assert 'rgb/mIoU' not in metrics
