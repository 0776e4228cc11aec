"""Depth errors against plain loops in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mmseg_xmodal.evaluation import DepthMapMetric

from .samples import evaluate, sample


def maps(seed: int, share: float = 0.2, low: float = 0.5):
    rng = np.random.default_rng(seed)
    truth = rng.uniform(low, 9, (1, 7, 11)).astype(np.float32)
    truth[rng.random(truth.shape) < share] = np.nan
    pred = (np.nan_to_num(truth, nan=1) * rng.normal(1, 0.3, truth.shape)).astype(
        np.float32
    )
    return truth, pred


def loop(pairs):
    """The definitions, pixel by pixel."""
    plain, ratio = [], []
    for truth, pred in pairs:
        for t, p in zip(truth.ravel().tolist(), pred.ravel().tolist(), strict=True):
            if math.isnan(t):
                continue
            plain.append(((p - t) ** 2, abs(p - t)))
            if t <= 0:
                continue
            q = max(p, 1e-3)
            ratio.append(
                (
                    abs(p - t) / t,
                    (p - t) ** 2 / t,
                    math.log(q / t) ** 2,
                    abs(math.log10(q) - math.log10(t)),
                    *(100.0 * (max(q / t, t / q) < 1.25**k) for k in (1, 2, 3)),
                )
            )
    squared, absolute = (math.fsum(v) / len(plain) for v in zip(*plain, strict=True))
    means = [math.fsum(v) / len(ratio) for v in zip(*ratio, strict=True)]
    names = ('abs_rel', 'sq_rel', 'rmse_log', 'log10', 'delta1', 'delta2', 'delta3')
    values = dict(zip(names, means, strict=True))
    values['rmse_log'] = math.sqrt(values['rmse_log'])
    return dict(values, rmse=math.sqrt(squared), mae=absolute)


# Of very different numbers of valid pixels, so that the two averages differ.
PAIRS = [maps(0), maps(1, share=0.9), maps(2, share=0)]
SAMPLES = [sample(gt_depth_map=t, pred_depth_map=p) for t, p in PAIRS]


def prefixed(values):
    return {f'depth/{key}': value for key, value in values.items()}


def test_pixels_of_all_images_are_pooled():
    got = evaluate(DepthMapMetric(), SAMPLES)
    assert got == pytest.approx(prefixed(loop(PAIRS)), rel=1e-12)


def test_or_images_are_averaged_and_empty_ones_do_not_count():
    empty = sample(
        gt_depth_map=np.full((1, 7, 11), np.nan, np.float32), pred_depth_map=PAIRS[0][1]
    )
    got = evaluate(DepthMapMetric(pooling='images'), [*SAMPLES, empty])
    each = [loop([pair]) for pair in PAIRS]
    want = {key: np.mean([image[key] for image in each]) for key in each[0]}
    assert got == pytest.approx(prefixed(want), rel=1e-12)
    pooled = evaluate(DepthMapMetric(), SAMPLES)
    assert abs(got['depth/rmse'] - pooled['depth/rmse']) > 0.01


def test_ratios_leave_out_truth_at_or_below_zero():
    pairs = [maps(3, low=-5)]
    samples = [sample(gt_dem=t, pred_dem=p) for t, p in pairs]
    got = evaluate(DepthMapMetric(task='dem', target='gt_dem'), samples)
    want = {f'dem/{key}': value for key, value in loop(pairs).items()}
    assert got == pytest.approx(want, rel=1e-12)
    chosen = DepthMapMetric(task='dem', target='gt_dem', metrics=['rmse', 'mae'])
    assert set(evaluate(chosen, samples)) == {'dem/rmse', 'dem/mae'}
    below = sample(gt_dem=-np.ones((1, 2, 2)), pred_dem=np.ones((1, 2, 2)))
    got = evaluate(DepthMapMetric(task='dem', target='gt_dem'), [below])
    assert got['dem/rmse'] == 2
    assert math.isnan(got['dem/log10'])


def test_limits_choose_pixels_and_clip_predictions():
    truth = np.array([[[0.5, 2, 4, 20]]])
    pred = np.array([[[9, 0.5, 30, 1.0]]])
    metric = DepthMapMetric(min_depth=1, max_depth=10, metrics=['mae'])
    got = evaluate(metric, [sample(gt_depth_map=truth, pred_depth_map=pred)])
    assert got == {'depth/mae': (1 + 6) / 2}


def test_known_values():
    truth = torch.tensor([[[1.0, 2.0, 4.0]]])
    pred = torch.tensor([[[1.25, 2.0, -4.0]]], dtype=torch.bfloat16)
    got = evaluate(DepthMapMetric(), [sample(gt_depth_map=truth, pred_depth_map=pred)])
    # 1.25 is not below 1.25; what is below 0 is wrong at every threshold.
    assert got['depth/delta1'] == pytest.approx(100 / 3)
    assert got['depth/delta2'] == got['depth/delta3'] == pytest.approx(200 / 3)
    assert got['depth/rmse'] == pytest.approx(math.sqrt((0.0625 + 64) / 3))
    want = (math.log10(1.25) + math.log10(4 / 1e-3)) / 3
    assert got['depth/log10'] == pytest.approx(want)


def test_a_prediction_that_is_not_finite_shows():
    truth, pred = maps(0)
    pred[0, 0] = np.nan
    got = evaluate(DepthMapMetric(), [sample(gt_depth_map=truth, pred_depth_map=pred)])
    assert math.isnan(got['depth/rmse'])
    assert math.isnan(got['depth/abs_rel'])


@pytest.mark.parametrize(
    'wrong',
    [
        dict(pooling='mean'),
        dict(metrics=['rmse', 'silog']),
        dict(metrics='rmse'),
        dict(metrics=[]),
        dict(min_depth=3, max_depth=2),
    ],
)
def test_wrong_arguments_are_refused(wrong):
    with pytest.raises(ValueError, match=r'DepthMapMetric has .*expected.*evaluator'):
        DepthMapMetric(**wrong)
