from __future__ import annotations

import hashlib
import json

import pytest

from mmseg_xmodal.evaluation.delta_m import delta_m, load_baselines, relative_gains

BASE = dict(seg=dict(mIoU=50.0, aAcc=80.0), depth=dict(rmse=0.5))
NEW = dict(seg=dict(mIoU=55.0, aAcc=76.0, extra=1.0), depth=dict(rmse=0.6), edge={})
HIGHER = dict(seg=dict(mIoU=True, aAcc=True), depth=dict(rmse=False))


def test_groupings_and_signs():
    gains = relative_gains(NEW, BASE, HIGHER)
    assert gains == {
        'seg': {'mIoU': pytest.approx(0.1), 'aAcc': pytest.approx(-0.05)},
        'depth': {'rmse': pytest.approx(-0.2)},
    }
    ours = delta_m(NEW, BASE, HIGHER, grouping='libmtl', sign='higher_is_better')
    assert ours == pytest.approx((0.025 - 0.2) / 2)
    ours = delta_m(NEW, BASE, HIGHER, grouping='libmtl', sign='lower_is_better')
    assert ours == pytest.approx((0.2 - 0.025) / 2)
    with pytest.raises(ValueError, match=r"'seg': \['mIoU', 'aAcc'\]"):
        delta_m(
            NEW, BASE, HIGHER, grouping='one_metric_per_task', sign='higher_is_better'
        )
    one = dict(BASE, seg=dict(mIoU=50.0))
    ours = delta_m(
        NEW, one, HIGHER, grouping='one_metric_per_task', sign='higher_is_better'
    )
    assert ours == pytest.approx((0.1 - 0.2) / 2)


def test_nothing_is_implied():
    with pytest.raises(TypeError):
        delta_m(NEW, BASE, HIGHER)
    for wrong in (dict(grouping='mean'), dict(sign='positive')):
        options = dict(grouping='libmtl', sign='higher_is_better') | wrong
        with pytest.raises(ValueError, match='delta_m got'):
            delta_m(NEW, BASE, HIGHER, **options)


def test_negative_baseline_keeps_its_direction():
    gains = relative_gains(
        dict(a=dict(m=-1.0)), dict(a=dict(m=-2.0)), dict(a=dict(m=True))
    )
    assert gains['a']['m'] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ('new', 'base', 'higher', 'text'),
    [
        (NEW, dict(BASE, depth=dict(rmse=0.0)), HIGHER, 'baseline of depth/rmse is 0'),
        (NEW, dict(depth=dict(rmse=float('nan'))), HIGHER, 'depth/rmse is nan'),
        (dict(NEW, depth=dict(rmse=float('inf'))), BASE, HIGHER, 'new value of depth'),
        (dict(seg=NEW['seg']), BASE, HIGHER, 'new has no value for depth/rmse'),
        (NEW, BASE, dict(HIGHER, seg={}), 'higher_better has no value for seg/mIoU'),
        (NEW, {}, HIGHER, 'at least one metric'),
        (NEW, dict(BASE, det={}), HIGHER, 'at least one metric'),
    ],
)
def test_bad_values(new, base, higher, text):
    with pytest.raises(ValueError, match=text):
        delta_m(new, base, higher, grouping='libmtl', sign='higher_is_better')


def test_stored_baselines(tmp_path):
    path = tmp_path / 'single.json'
    path.write_text(json.dumps(BASE))
    stored = load_baselines(path)
    assert stored.values == BASE
    assert stored.path == path
    assert stored.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(FileNotFoundError, match='nowhere.json'):
        load_baselines(tmp_path / 'nowhere.json')
    path.write_text('{')
    with pytest.raises(ValueError, match='is no JSON'):
        load_baselines(path)
    for wrong in ([1], dict(seg=0.5), dict(seg=dict(mIoU='high'))):
        path.write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match='with a number for each metric'):
            load_baselines(path)
