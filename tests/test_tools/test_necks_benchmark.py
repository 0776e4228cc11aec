"""necks.py: its table, on results that are made up, and one run of all of it."""

from __future__ import annotations

import json

import pytest
import torch
from mmengine import Config

from tests.benchmark_scripts import load_script  # makes xbench importable
from tests.integration.helpers import ROOT

NECKS = load_script('necks')


def _measured(parameters: int, seconds: float) -> dict:
    mode = {'seconds': {'median': seconds}, 'peak_mib': 100 * seconds}
    forms = {'ours': {'parameters': parameters, 'forward': mode, 'train': mode}}
    return {'forms': forms, 'config': 'a.py', 'settings': {}, 'environment': {}}


def test_gain_is_against_the_first_config():
    runs = [
        {'label': label, 'seed': seed, 'metrics': {'mIoU': miou + seed}}
        for label, miou in (('none', 50.0), ('gate', 52.5))
        for seed in (0, 2)
    ]
    measured = {'none': _measured(2_000_000, 0.1), 'gate': _measured(2_500_000, 0.2)}
    result = NECKS.collect({'runs': runs, 'settings': {}}, measured, 'command')
    assert result['rows'] == [
        ['none', '51.00 ± 1.41', '+0.00', '2.00 M', '100', '100', '10', '10'],
        ['gate', '53.50 ± 1.41', '+2.50', '2.50 M', '200', '200', '21', '21'],
    ]
    assert '| gate |' in NECKS.experiment.render.render([result])


def test_the_shipped_configs_differ_in_the_neck_only():
    entries = dict(entry.split('=', 1) for entry in NECKS.shipped())
    assert next(iter(entries)) == 'no-neck'
    configs = {label: Config.fromfile(path) for label, path in entries.items()}
    assert 'neck' not in configs['no-neck'].model
    necks = {
        cfg.model.neck.type for label, cfg in configs.items() if label != 'no-neck'
    }
    assert len(necks) == len(configs) - 1 == 5
    for cfg in configs.values():
        cfg.model.pop('neck', None)
        cfg.model.backbone.pop('fusion')
        assert cfg._cfg_dict == configs['no-neck']._cfg_dict


@pytest.mark.slow
def test_it_trains_tests_and_measures(rgbd_root, tmp_path, capsys):
    tiny = (ROOT / 'tests/configs/cmx_tiny.py').resolve()
    config = tmp_path / 'gate.py'
    config.write_text(
        f"""_base_ = ['{tiny}']
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmseg_xmodal.MultiStreamBackbone',
        modalities=_base_.modalities,
        backbone=dict(
            type='mmseg_xmodal.MixTransformer',
            variant=dict(
                embed_dims=(8, 16, 24, 32), depths=(1, 1, 1, 1), num_heads=(1, 2, 3, 4)
            ),
        ),
        fusion=dict(type='mmseg_xmodal.StackStreams'),
    ),
    neck=dict(type='mmseg_xmodal.AdaptiveGateNeck', in_channels=[8, 16, 24, 32]),
)
"""
    )
    out = tmp_path / 'necks.json'
    arguments = ['--configs', f'gate={config}', '--iters', '2']
    arguments += ['--data-root', str(rgbd_root), '--workers', '0', '--jobs', '1']
    arguments += ['--work-dir', str(tmp_path / 'runs'), '--shape', '64', '64']
    threads = torch.get_num_threads()
    NECKS.main([*arguments, '--repeats', '1', '--out', str(out)])
    torch.set_num_threads(threads)
    result = json.loads(out.read_text())
    assert [row[0] for row in result['rows']] == ['gate']
    assert 0 <= float(result['rows'][0][1]) <= 100
    assert 'train MB' in capsys.readouterr().out
