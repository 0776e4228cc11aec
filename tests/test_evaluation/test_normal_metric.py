"""Angles against plain loops in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mmseg_xmodal.evaluation import NormalMetric
from mmseg_xmodal.evaluation.normals import BIN, angles, histogram_median

from .samples import evaluate, sample


def maps(seed: int, noise: float):
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(3, 9, 13))
    truth /= np.linalg.norm(truth, axis=0)
    pred = truth + noise * rng.normal(size=truth.shape)
    truth[:, rng.random(truth.shape[1:]) < 0.3] = np.nan
    return truth, pred


def loop(pairs):
    """Angle of every valid pixel, by the arc cosine."""
    found = []
    for truth, pred in pairs:
        for y in range(truth.shape[1]):
            for x in range(truth.shape[2]):
                a, b = truth[:, y, x].tolist(), pred[:, y, x].tolist()
                if any(math.isnan(v) for v in a):
                    continue
                dot = sum(p * q for p, q in zip(a, b, strict=True))
                dot /= math.hypot(*a) * math.hypot(*b)
                found.append(math.degrees(math.acos(max(-1, min(1, dot)))))
    return np.array(found)


def test_against_loops_over_all_pixels():
    pairs = [maps(0, 0.2), maps(1, 1.0)]
    samples = [sample(gt_normal_map=t, pred_normal_map=p) for t, p in pairs]
    got = evaluate(NormalMetric(), samples)
    want = loop(pairs)
    assert got['normal/mean'] == pytest.approx(want.mean(), rel=1e-10)
    assert got['normal/rmse'] == pytest.approx(math.sqrt((want**2).mean()), rel=1e-10)
    for limit in (11.25, 22.5, 30):
        share = 100 * (want < limit).mean()
        assert got[f'normal/within_{limit:g}'] == pytest.approx(share)
    # From a histogram: right to the width of a bin, where neighbours are close.
    low, high = np.sort(want)[len(want) // 2 - 1 : len(want) // 2 + 1]
    assert low - BIN <= got['normal/median'] <= high + BIN


def test_median_of_many_pixels_is_closer_than_a_bin():
    values = np.random.default_rng(0).gamma(2, 8, 20001)
    histogram = np.bincount((values / BIN).astype(int))
    assert histogram_median(histogram, BIN) == pytest.approx(
        np.median(values), abs=0.05
    )
    # Exact where the values are spread evenly inside the bins.
    assert histogram_median(np.array([2, 2, 4]), 1.0) == 2.0
    assert histogram_median(np.array([0, 0, 4]), 1.0) == 2.5


def test_small_angles_keep_their_digits():
    a = np.array([[0.0], [0.0], [1.0]])
    b = np.array([[1e-7], [0.0], [1.0]])
    assert angles(a, b)[0] == pytest.approx(math.degrees(1e-7), rel=1e-9)


def test_lengths_do_not_count_and_zero_vectors_have_no_direction():
    truth = np.zeros((3, 1, 4))
    truth[2] = 1
    truth[2, 0, 3] = 0  # no truth
    pred = np.zeros((3, 1, 4))
    pred[:, 0, 0] = 0, 0, 5
    pred[:, 0, 1] = 0, -3, 0
    got = evaluate(NormalMetric(), [sample(gt_normal_map=truth, pred_normal_map=pred)])
    assert got['normal/mean'] == pytest.approx((0 + 90 + 90) / 3)
    assert got['normal/within_30'] == pytest.approx(100 / 3)


def test_opposite_vectors_are_in_the_last_bin():
    truth = np.zeros((3, 2, 2))
    truth[0] = 1
    got = evaluate(
        NormalMetric(), [sample(gt_normal_map=truth, pred_normal_map=-truth)]
    )
    assert got['normal/mean'] == 180
    assert got['normal/median'] == pytest.approx(180, abs=BIN)


def test_what_is_not_finite_shows_and_other_maps_are_refused():
    truth, pred = maps(0, 0.2)
    pred[:, np.isfinite(truth[0])] = np.nan
    got = evaluate(NormalMetric(), [sample(gt_normal_map=truth, pred_normal_map=pred)])
    assert all(math.isnan(value) for value in got.values())
    flat = sample(gt_normal_map=truth[:1], pred_normal_map=pred[:1])
    with pytest.raises(ValueError, match=r'\(1, 9, 13\).*\(3, H, W\)'):
        evaluate(NormalMetric(), [flat])
