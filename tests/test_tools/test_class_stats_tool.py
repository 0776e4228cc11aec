"""The command line of the class statistics."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from mmseg_xmodal.structures import ClassStats
from tests import python_process
from tests.test_datasets.labelled import config, write_labelled
from tests.tool_scripts import load_tool

TOOL = Path(__file__).resolve().parents[2] / 'tools/class_stats.py'
SAMPLES = [{0: 30, 1: 10}, {0: 20}]


@pytest.fixture(scope='module')
def tool() -> ModuleType:
    return load_tool('class_stats')


@pytest.fixture
def cfg(tmp_path: Path) -> Path:
    write_labelled(tmp_path / 'data', SAMPLES)
    data = config(tmp_path / 'data', ('a', 'b', 'c'))
    more = config(tmp_path / 'more', ('a', 'b', 'c'))
    write_labelled(tmp_path / 'more', [{2: 8}])
    path = tmp_path / 'cfg.py'
    both = dict(type='mmseg_xmodal.MultiSourceDataset', datasets=[data, more])
    path.write_text(
        f'train_dataloader = dict(dataset={data!r})\n'
        f'mixed_dataloader = dict(dataset={both!r})\n'
    )
    return path


def rows(text: str) -> dict[str, list[str]]:
    lines = [line for line in text.splitlines() if line.startswith('|')]
    cells = [[c.strip() for c in line.strip('|').split('|')] for line in lines]
    return {row[1]: row for row in cells}


def test_command_line(cfg, tmp_path):
    out = tmp_path / 'stats.json'
    done = python_process.run(TOOL, cfg, '--out', out, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = rows(done.stdout)
    assert found['class'][2:] == [
        'pixels %',
        'images %',
        'inverse',
        'median',
        'effective',
        'enet',
    ]
    # 50 of 60 pixels, in both images; 10 of 60, in one; none.
    assert found['a'][:4] == ['0', 'a', '83.333', '100.00']
    assert found['b'][:4] == ['1', 'b', '16.667', '50.00']
    assert found['c'][2:] == ['0.000', '0.00', '1', '1', '1', '1']
    # Mean 1 of 1.2 and 6; median 13 / 24 of 5 / 6 and 1 / 4.
    assert found['a'][4:6] == ['0.333', '0.65']
    assert found['b'][4:6] == ['1.67', '2.17']
    assert '2 samples, 60 labelled pixels, 25.00 % ignored' in done.stdout
    assert 'never seen: c' in done.stdout
    assert ClassStats.load(out).pixels.tolist() == [50, 10, 0]


def test_parts_of_a_config(tool, cfg, capsys):
    assert tool.main([str(cfg), '--dataset', 'mixed_dataloader.dataset']) == 0
    assert rows(capsys.readouterr().out)['c'][2] == '11.765'
    one = 'mixed_dataloader.dataset.datasets.1'
    assert tool.main([str(cfg), '--dataset', one]) == 0
    shown = capsys.readouterr().out
    assert rows(shown)['c'][2] == '100.000'
    path = shown.splitlines()[-1].removeprefix('statistics: ')
    assert ClassStats.load(path).pixels.tolist() == [0, 0, 8]


def test_options_change_the_config(tool, cfg, capsys):
    option = 'train_dataloader.dataset.reduce_zero_label=True'
    assert tool.main([str(cfg), '--beta', '0', '--cfg-options', option]) == 0
    found = rows(capsys.readouterr().out)
    assert found['a'][2] == '100.000'
    assert [found[c][6] for c in 'abc'] == ['1', '1', '1']


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--dataset', 'val_dataloader.dataset'], "has no 'val_dataloader' there"),
        (['--dataset', 'mixed_dataloader.dataset.datasets.9'], "has no '9' there"),
        (['--beta', '1'], 'beta=1.0'),
        (['--key', 'gt_cover'], "no label map 'gt_cover'"),
    ],
)
def test_wrong_arguments(tool, cfg, capsys, arguments, message):
    assert tool.main([str(cfg), *arguments]) == 1
    assert message in capsys.readouterr().err


def test_missing_config_and_threads(tool, capsys):
    assert tool.main(['none.py']) == 1
    assert 'none.py' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        tool.main(['none.py', '--threads', '0'])
