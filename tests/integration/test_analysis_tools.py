"""mmseg's analysis tools on a config of several modalities."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import cv2
import pytest
from mmengine.visualization import Visualizer

from mmseg_xmodal.visualization import XModalVisualizer

from .conftest import Trained
from .helpers import TOOLS, run_tool


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Run a tool in this process, its folder of results being ``tmp_path``."""

    def run(name: str, *args: object) -> None:
        monkeypatch.setattr(sys, 'argv', [name, *map(str, args)])
        monkeypatch.chdir(tmp_path)
        runpy.run_path(str(TOOLS / name), run_name='__main__')

    monkeypatch.setenv('MPLBACKEND', 'Agg')
    # A visualizer of an earlier test would be handed on by its name.
    Visualizer._instance_dict.clear()
    XModalVisualizer._instance_dict.clear()
    return run


def test_confusion_matrix_with_classes_of_the_config(
    trained: Trained, tool, tmp_path: Path
):
    predictions = tmp_path / 'predictions'
    run_tool(
        'test.py', trained.config, trained.checkpoint, '--work-dir', tmp_path / 'w',
        '--out', predictions,
    )  # fmt: skip
    tool('analysis_tools/confusion_matrix.py', trained.config, predictions, tmp_path)
    assert cv2.imread(str(tmp_path / 'confusion_matrix.png')).std() > 0


def test_benchmark(trained: Trained, tool, tmp_path: Path, capsys):
    # The tool stops after 200 samples and says nothing before; the set has eight.
    config = tmp_path / 'repeated.py'
    config.write_text(
        f'_base_ = [{str(trained.config)!r}]\n'
        "test_dataloader = dict(dataset=dict(_delete_=True, type='RepeatDataset', "
        'times=25, dataset={{_base_.test_dataloader.dataset}}))\n'
    )
    tool('analysis_tools/benchmark.py', config, trained.checkpoint)
    assert 'Overall fps' in capsys.readouterr().out


@pytest.mark.parametrize('name', ['analysis_tools', 'misc'])
def test_browse_dataset_draws_every_sample(trained: Trained, tool, tmp_path, name):
    script = f'{name}/browse_dataset.py'
    tool(script, trained.config, '--not-show', '--output-dir', tmp_path / 'panels')
    panels = sorted((tmp_path / 'panels').rglob('*.png'))
    assert len(panels) == 8


def test_print_config(trained: Trained, tool, tmp_path, capsys):
    tool('misc/print_config.py', trained.config, '--graph')
    assert 'FeatureRectifyModule' in (tmp_path / 'example-graph.txt').read_text()
    assert 'mmseg_xmodal.CMX' in capsys.readouterr().out


def test_get_flops_says_what_to_use(trained: Trained, tool):
    with pytest.raises(
        ValueError, match=r'3 float32 channels, but .* use tools/benchmark/speed\.py'
    ):
        tool('analysis_tools/get_flops.py', trained.config, '--shape', 64, 96)
