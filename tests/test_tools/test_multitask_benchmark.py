"""multitask.py: Delta_m on results that are made up, and its costs on small input."""

from __future__ import annotations

import argparse

import pytest
import torch
from mmengine.config import Config

from tests.benchmark_scripts import load_script

MULTITASK = load_script('multitask')
METRICS = {
    'single-seg': {'mIoU': 40.0},
    'single-det': {'det/mAP': 20.0},
    'single-depth': {'depth/rmse': 2.0},
    'single-cls': {'cls/mAP': 50.0},
    # +10 %, -10 %, +20 % (a lower error), 0 %
    'multitask': {'mIoU': 44.0, 'det/mAP': 18.0, 'depth/rmse': 1.6, 'cls/mAP': 50.0},
}


def test_gains_are_against_the_single_tasks_of_the_same_seed():
    runs = [
        {
            'label': label,
            'seed': seed,
            'metrics': {name: value * (1 + seed) for name, value in metrics.items()},
        }
        for label, metrics in METRICS.items()
        for seed in (0, 1)
    ]
    trained = {'runs': runs, 'settings': {}, 'environment': {}}
    result = MULTITASK.collect(trained)
    assert result['header'][-1] == 'Delta_m %'
    assert result['rows'][0][0] == 'single tasks'
    assert result['rows'][1][0] == 'multitask'
    assert result['rows'][1][1] == '66.00 ± 31.11'
    assert result['rows'][1][-1] == '+5.00 ± 0.00'
    assert result['delta_m']['multitask'] == pytest.approx([5.0, 5.0])


def test_the_shipped_configs_share_one_budget_and_network():
    entries = dict(entry.split('=', 1) for entry in MULTITASK.shipped())
    assert next(iter(entries)).startswith('single-')
    single = {label for label in entries if label.startswith('single-')}
    assert single == {f'single-{task}' for task in MULTITASK.METRICS}
    joint = Config.fromfile(entries['multitask'])
    for label in single:
        cfg = Config.fromfile(entries[label])
        assert cfg.model.pop('tasks') == [label.removeprefix('single-')]
        assert cfg.model == joint.model
        assert cfg.train_dataloader == joint.train_dataloader
        assert cfg.optim_wrapper == joint.optim_wrapper


@pytest.mark.slow
def test_costs(tmp_path, monkeypatch):
    entries = dict(entry.split('=', 1) for entry in MULTITASK.shipped())
    wanted = {n: p for n, p in entries.items() if n in METRICS}
    args = argparse.Namespace(shape=[32, 32], repeats=1, threads=1, data_root=None)
    steps = {name: (lambda: torch.ones(1)) for name in MULTITASK.WRAPPERS}
    monkeypatch.setattr(MULTITASK.task_cost, 'training_steps', lambda *_: steps)
    found = MULTITASK.cost(args, wanted)
    assert set(found['forward_seconds']) == set(METRICS)
    # One task has the encoder and its head; the joint model all heads.
    parameters = found['parameters']
    assert all(parameters[n] < parameters['multitask'] for n in wanted if '-' in n)
    ratios = found['ratios']
    assert 0 < ratios['joint / all single']['median'] < 1
    assert MULTITASK.cost_table(found)[1][0][0] == 'joint / segmentation'
