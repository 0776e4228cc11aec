"""`make report`: marked regions of documents follow benchmarks/*.json."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmark_scripts import load_script

from xbench import common, document, render  # isort: skip  # path set just above


def experiment_result(miou: float = 50.0) -> dict:
    return {
        'kind': 'experiment',
        'command': 'python tools/benchmark/experiment.py --name x',
        'environment': {'cpu': 'a CPU', 'versions': {'torch': '2.13.0'}},
        'runs': [
            {
                'label': label,
                'seed': seed,
                'metrics': {'mIoU': miou + offset + seed, 'IoU.wall': 80.0 + seed},
            }
            for label, offset in (('rgbd', 10), ('rgb', 0))
            for seed in (0, 1, 2)
        ],
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    common.write_json(tmp_path / 'benchmarks' / 'demo.json', experiment_result())
    (tmp_path / 'docs').mkdir()
    (tmp_path / 'configs' / 'cmx').mkdir(parents=True)
    (tmp_path / 'README.md').write_text(
        'Before.\n<!-- report:demo -->\n<!-- /report -->\nRGB+D reaches '
        '<!-- report:demo#runs.0.metrics.mIoU:.1f -->?<!-- /report --> points.\n'
    )
    (tmp_path / 'docs' / 'plain.md').write_text('No region here.\n')
    return tmp_path


def run(root: Path, *arguments: str) -> None:
    load_script('report').main(['--root', str(root), *arguments])


def test_the_source_line_names_the_devices_of_trainings():
    result = experiment_result()
    assert 'trained' not in render.source_line([result])
    for run, device in zip(result['runs'], ['CPU', 'A card', 'CPU'] * 2, strict=True):
        run['device'] = device
    assert '<br>trained: 4 on CPU, 2 on A card<br>' in render.source_line([result])


def test_check_fails_until_the_document_is_written(root, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(root, '--check')
    assert stopped.value.code == 1
    printed = capsys.readouterr()
    assert '+| rgbd' in printed.out
    assert '`make report`' in printed.err
    assert 'README.md differs' in printed.err
    run(root)
    run(root, '--check')
    text = (root / 'README.md').read_text()
    assert text.startswith('Before.\n')
    assert 'RGB+D reaches <!-- report:demo#runs.0.metrics.mIoU:.1f -->60.0<!--' in text
    assert '| rgbd    |     3 | 61.00 | ± 1.00 | 81.0 |' in text


def test_check_fails_after_a_change_of_the_document(root):
    run(root)
    path = root / 'README.md'
    path.write_text(path.read_text().replace('61.00', '71.00'))
    with pytest.raises(SystemExit):
        run(root, '--check')
    assert '71.00' in path.read_text(), '--check must not write'


def test_check_fails_after_a_change_of_the_result(root):
    run(root)
    common.write_json(root / 'benchmarks' / 'demo.json', experiment_result(20.0))
    with pytest.raises(SystemExit):
        run(root, '--check')


@pytest.mark.parametrize('name', ['docs/a.md', 'configs/cmx/README.md', 'configs/a.py'])
def test_every_kind_of_document_is_filled(root, name):
    path = root / name
    path.write_text('"""\n<!-- report:demo#runs.1.seed -->0<!-- /report -->\n"""\n')
    run(root)
    assert '-->1<!--' in path.read_text()


@pytest.mark.parametrize(
    ('text', 'pattern'),
    [
        ('<!-- report:absent -->\n<!-- /report -->', r'benchmarks/absent\.json|absent'),
        ('<!-- report:demo -->\nno end', r'1 report marks make 0 regions'),
        ('<!-- report:demo#runs.7 -->x<!-- /report -->', r"no key '7'"),
        (
            '<!-- report:demo#nothing:.1f -->x<!-- /report -->',
            r"no key 'nothing'.*runs",
        ),
        (
            '<!-- report:demo --> <!-- report:demo --> <!-- /report -->',
            r'3 report marks make 1 regions',
        ),
    ],
)
def test_wrong_marks_are_refused(root, text, pattern):
    with pytest.raises((ValueError, FileNotFoundError), match=pattern):
        document.fill(text, root / 'benchmarks', 'README.md')


def test_wrong_marks_end_with_status_1(root, capsys):
    (root / 'docs' / 'a.md').write_text('<!-- report:absent --><!-- /report -->')
    with pytest.raises(SystemExit) as stopped:
        run(root)
    assert stopped.value.code == 1
    assert 'docs/a.md, region report:absent' in capsys.readouterr().err


def test_patterns_join_results_of_one_kind(root):
    common.write_json(root / 'benchmarks' / 'demo_b.json', experiment_result(30.0))
    filled = document.content('demo*', root / 'benchmarks')
    assert filled.count('| rgbd') == 2
    common.write_json(
        root / 'benchmarks' / 'demo_c.json',
        {'kind': 'table', 'header': ['a'], 'rows': [['1']]},
    )
    with pytest.raises(ValueError, match=r"kinds \['experiment', 'table'\]"):
        document.content('demo*', root / 'benchmarks')


def test_plain_tables(root):
    result = {'kind': 'table', 'header': ['class', 'pixels'], 'rows': [['wall', '7']]}
    assert render.render([result]).splitlines() == [
        '| class | pixels |',
        '| ----- | -----: |',
        '| wall  |      7 |',
    ]


def test_results_hold_no_nan_and_no_long_floats(tmp_path):
    path = tmp_path / 'a.json'
    common.write_json(path, {'a': float('nan'), 'b': [1 / 3, 12345678.0]})
    assert common.read_json(path) == {'a': None, 'b': [0.333333, 12345700.0]}
    path.write_text('[1]')
    with pytest.raises(ValueError, match=r'holds a list, expected an object'):
        common.read_json(path)


def test_commands_show_no_path_of_this_machine(tmp_path):
    config = common.ROOT / 'configs' / 'a.py'
    command = common.command_line('speed.py', [str(config), '--out', str(tmp_path)])
    assert command == (
        f'python tools/benchmark/speed.py configs/a.py --out .../{tmp_path.name}'
    )
    command = common.command_line('experiment.py', [f'rgb={config}', 'a=b'])
    assert command == 'python tools/benchmark/experiment.py rgb=configs/a.py a=b'


def test_a_command_that_writes_another_file_is_refused(root, capsys):
    path = root / 'benchmarks' / 'demo.json'
    result = experiment_result()
    common.write_json(
        path, {**result, 'command': f'{result["command"]} --out .../b.json'}
    )
    with pytest.raises(SystemExit):
        run(root)
    assert 'benchmarks/demo.json has a command that writes .../b.json' in (
        capsys.readouterr().err
    )
    common.write_json(
        path, {**result, 'command': f'{result["command"]} --out benchmarks/demo.json'}
    )
    run(root)
