"""The tool that draws what a data pipeline gives."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType, SimpleNamespace

import cv2
import pytest

from tests.integration.helpers import write_config
from tests.tool_scripts import load_tool


@pytest.fixture(scope='module')
def tool() -> ModuleType:
    return load_tool('browse_dataset')


def written(folder: Path) -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in sorted(folder.glob('*.png'))}


def run(tool: ModuleType, config: Path, out: Path, *args: str) -> dict[str, bytes]:
    assert tool.main([str(config), '--output-dir', str(out), *args]) == 0
    return written(out)


def append(config: Path, text: str) -> Path:
    config.write_text(config.read_text() + text)
    return config


def test_draws_differ_and_repeat(tool, tmp_path, rgbd_root, capsys):
    config = write_config(tmp_path, 'cfg', rgbd_root)
    options = ('--number', '3', '--draws', '2')
    panels = run(tool, config, tmp_path / 'a', *options)
    assert len({name[:5] for name in panels}) == 3
    assert len(set(panels.values())) == len(panels) == 6
    assert '6 panels in' in capsys.readouterr().out
    assert run(tool, config, tmp_path / 'b', *options) == panels
    assert run(tool, config, tmp_path / 'c', *options, '--seed', '1') != panels


def test_every_modality_has_its_picture(tool, tmp_path, rgbd_root):
    config = write_config(tmp_path, 'cfg', rgbd_root)
    run(tool, config, tmp_path / 'a', '--number', '1')
    (path,) = (tmp_path / 'a').glob('*.png')
    # rgb, depth and truth in one row, at least 240 pixels each.
    assert cv2.imread(str(path)).shape[1] > 3 * 240


def test_sources_and_views_are_named(tool, tmp_path, rgbd_root):
    config = append(
        write_config(tmp_path, 'cfg', rgbd_root),
        'train_dataloader = dict(dataset=dict(_delete_=True, '
        'type="mmseg_xmodal.MultiSourceDataset", names=["day", "night"], datasets=['
        'dict(type="RepeatDataset", times=1, '
        'dataset={{_base_.train_dataloader.dataset}}), '
        '{{_base_.val_dataloader.dataset}}]))\n'
        'test_dataloader = dict(dataset=dict(pipeline={{_base_.tta_pipeline}}))\n',
    )
    root = [
        f'train_dataloader.dataset.datasets.0.dataset.data_root={rgbd_root}',
        f'train_dataloader.dataset.datasets.1.data_root={rgbd_root}',
    ]
    panels = run(tool, config, tmp_path / 'a', '--number', '4', '--cfg-options', *root)
    assert [name.split('_')[1] for name in panels] == ['day', 'day', 'night', 'night']
    panels = run(
        tool, config, tmp_path / 'b', '--split', 'test', '--number', '1',
        '--cfg-options', f'test_dataloader.dataset.data_root={rgbd_root}',
    )  # fmt: skip
    assert [name.split('_')[-2] for name in panels] == [f'view{i}' for i in range(4)]


def test_a_data_set_of_plain_mmseg(tool, tmp_path, rgbd_root):
    config = tmp_path / 'plain.py'
    pipeline = [dict(type=t) for t in ('LoadImageFromFile', 'PackSegInputs')]
    dataset = dict(
        type='BaseSegDataset',
        data_root=str(rgbd_root),
        data_prefix=dict(img_path='rgb/train'),
        img_suffix='.png',
        metainfo=dict(classes=('far', 'near')),
        pipeline=pipeline,
    )
    config.write_text(f'train_dataloader = dict(dataset={dataset!r})\n')
    assert len(run(tool, config, tmp_path / 'out', '--number', '2')) == 2


def test_layout_behind_wrappers(tool):
    inner = SimpleNamespace(layout='layout')
    wrapped = SimpleNamespace(dataset=SimpleNamespace(dataset=inner))
    assert tool.layout_of(wrapped, 3) == 'layout'
    assert tool.layout_of(SimpleNamespace(), 3) is None


def test_what_it_refuses(tool, tmp_path, rgbd_root, capsys):
    config = write_config(tmp_path, 'cfg', rgbd_root)
    load = [dict(type='mmseg_xmodal.LoadModalities')]
    unpacked = append(config, f"train_dataloader['dataset']['pipeline'] = {load}\n")
    assert tool.main([str(unpacked)]) == 1
    assert 'expected inputs and data_samples. End it with' in capsys.readouterr().err
    only = tmp_path / 'only.py'
    only.write_text('val_dataloader = dict()\n')
    assert tool.main([str(only)]) == 1
    message = capsys.readouterr().err
    assert "no train_dataloader, only ['val_dataloader']. Choose" in message
    with pytest.raises(SystemExit):
        tool.main([str(config), '--draws', '0'])
    assert '--draws got 0, expected at least 1' in capsys.readouterr().err
