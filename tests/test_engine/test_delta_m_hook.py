"""Delta_m among the results of a run."""

from __future__ import annotations

import hashlib
import json
import math
from types import SimpleNamespace

import pytest

from mmseg_xmodal.engine import DeltaMHook

from .toy import ToyMetric, toy_runner

METRICS = {'mIoU': 'higher', 'depth/rmse': 'lower'}
BASE = dict(seg=dict(mIoU=40.0), depth=dict(rmse=0.5, mae=0.3), det=dict(mAP=20.0))
RESULTS = {'mIoU': 44.0, 'depth/rmse': 0.6, 'aAcc': 90.0, 'cover/mIoU': 10.0}
OPTIONS = dict(grouping='one_metric_per_task', sign='higher_is_better')


def hook():
    return DeltaMHook(METRICS, BASE, **OPTIONS)


class Log:
    def __init__(self):
        self.lines = []
        self.info = self.warning = self.lines.append


def run(own, results):
    runner = SimpleNamespace(logger=Log())
    results = dict(results)
    own.after_test_epoch(runner, results)
    return results, ' '.join(runner.logger.lines)


def test_the_mean_gain_in_percent():
    results, log = run(hook(), RESULTS)
    # +10 % of mIoU, and an error that is 20 % larger.
    assert results['delta_m'] == pytest.approx(-5)
    assert {k: v for k, v in results.items() if k != 'delta_m'} == RESULTS
    assert 'seg/mIoU +10.00 %' in log
    assert 'depth/rmse -20.00 %' in log
    assert 'higher_is_better' in log


def test_the_sign_is_a_choice():
    options = dict(OPTIONS, sign='lower_is_better')
    own = DeltaMHook(METRICS, BASE, **options)
    assert run(own, RESULTS)[0]['delta_m'] == pytest.approx(5)
    several = {**METRICS, 'depth/mae': 'lower'}
    own = DeltaMHook(several, BASE, grouping='libmtl', sign='higher_is_better')
    # Depth: -20 and 0, so -10 on average.
    got = run(own, {**RESULTS, 'depth/mae': 0.3})[0]['delta_m']
    assert got == pytest.approx(0)
    with pytest.raises(ValueError, match='one_metric_per_task'):
        DeltaMHook(several, BASE, **OPTIONS)


def test_baselines_from_a_file_are_named_with_their_hash(tmp_path):
    path = tmp_path / 'single.json'
    path.write_text(json.dumps(BASE))
    own = DeltaMHook(METRICS, str(path), **OPTIONS)
    results, log = run(own, RESULTS)
    assert results['delta_m'] == pytest.approx(-5)
    assert hashlib.sha256(path.read_bytes()).hexdigest() in log
    with pytest.raises(FileNotFoundError, match='none.json'):
        DeltaMHook(METRICS, str(tmp_path / 'none.json'), **OPTIONS)


def test_each_subset_of_the_modalities_gets_its_own():
    results = {
        f'{subset}/{name}': value * factor
        for subset, factor in (('rgb+depth', 1.0), ('rgb', 0.5))
        for name, value in RESULTS.items()
    }
    got, _ = run(hook(), results)
    assert got['rgb+depth/delta_m'] == pytest.approx(-5)
    # 22 of 40, and .3 instead of .5.
    assert got['rgb/delta_m'] == pytest.approx((-45 + 40) / 2)
    assert 'delta_m' not in got


def test_a_result_that_is_not_finite_makes_it_nan_and_is_named():
    results, log = run(hook(), {**RESULTS, 'depth/rmse': float('nan')})
    assert math.isnan(results['delta_m'])
    assert "['depth/rmse'] are not finite" in log


def test_wrong_settings_show_at_once_and_missing_results_are_named():
    with pytest.raises(ValueError, match=r"'up'.*\['higher', 'lower'\]"):
        DeltaMHook({'mIoU': 'up'}, BASE, **OPTIONS)
    with pytest.raises(ValueError, match=r"\['normal/mean'\] too"):
        DeltaMHook({**METRICS, 'normal/mean': 'lower'}, BASE, **OPTIONS)
    with pytest.raises(ValueError, match=r'baseline of seg/mIoU is 0'):
        DeltaMHook({'mIoU': 'higher'}, dict(seg=dict(mIoU=0)), **OPTIONS)
    with pytest.raises(ValueError, match='grouping'):
        DeltaMHook(METRICS, BASE, grouping='mean', sign='higher_is_better')
    with pytest.raises(ValueError, match=r"gave \['cover/mIoU', 'mIoU'\].*depth/rmse"):
        run(hook(), {'mIoU': 1.0, 'cover/mIoU': 1.0})


def test_it_is_logged_and_chooses_the_best_checkpoint(tmp_path):
    own = dict(
        type='mmseg_xmodal.DeltaMHook',
        metrics={'toy/score': 'higher'},
        baselines=dict(toy=dict(score=0.25)),
        **OPTIONS,
    )
    runner = toy_runner(
        tmp_path,
        hooks=[own],
        length=4,
        checkpoint=dict(save_best='delta_m', rule='greater'),
    )
    runner._val_evaluator = [ToyMetric(prefix='toy')]
    runner.train()
    hub = runner.message_hub
    score = hub.get_scalar('val/toy/score').current()
    assert hub.get_scalar('val/delta_m').current() == pytest.approx(400 * score - 100)
    assert list(tmp_path.glob('best_delta_m*.pth'))
