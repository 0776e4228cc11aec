"""Matching against scipy's maximum matching, F by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import label
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

from mmseg_xmodal.evaluation import EdgeMetric
from mmseg_xmodal.evaluation.edge_matching import (
    greedy_matching,
    neighbours,
    thin_edges,
    without_stairs,
)

from .samples import evaluate, sample


def scipy_matches(candidates, count):
    graph = np.zeros((len(candidates), count), np.int8)
    for i, near in enumerate(candidates):
        graph[i, list(near)] = 1
    found = maximum_bipartite_matching(csr_matrix(graph), perm_type='column')
    return int((found >= 0).sum())


@pytest.mark.parametrize('degree', [1, 2, 4])
def test_every_beginning_is_matched_as_well_as_it_can_be(degree):
    for seed in range(10):
        rng = np.random.default_rng(seed)
        count = int(rng.integers(1, 20))
        candidates = [
            rng.integers(0, count, rng.integers(0, degree + 1)).tolist()
            for _ in range(30)
        ]
        matched = greedy_matching(candidates, count)
        for k in range(1, len(candidates) + 1):
            assert matched[:k].sum() == scipy_matches(candidates[:k], count)


def test_an_earlier_match_is_handed_on():
    # The first takes 0; the second can have nothing else, so the first gets 1.
    assert greedy_matching([[0, 1], [0]], 2).all()
    assert greedy_matching([[0, 1], [0], [1], [0, 1]], 2).tolist() == [1, 1, 0, 0]


def test_neighbours_are_within_the_radius_inclusive():
    truth = np.array([[0, 0], [0, 3], [4, 3]])
    near = neighbours(np.array([[0, 0], [9, 9]]), truth, 5.0)
    assert [sorted(n) for n in near] == [[0, 1, 2], []]
    near = neighbours(np.array([[0, 0]]), truth, 4.99)
    assert sorted(near[0]) == [0, 1]


@pytest.mark.parametrize('width', [1, 2, 3, 5])
@pytest.mark.parametrize('kind', ['vertical', 'horizontal', 'diagonal'])
def test_thick_edges_become_thin_in_their_middle(kind, width):
    y, x = np.indices((40, 40))
    across = dict(vertical=x - 20, horizontal=y - 20, diagonal=x - y)[kind]
    thick = ((across >= 0) & (across < width)).astype(float)
    thin = without_stairs(thin_edges(thick))
    lines = (slice(8, 30), slice(None))[:: -1 if kind == 'horizontal' else 1]
    inside, place = thin[lines] > 0, across[lines]
    # One pixel in every row (or column), as far from both rims as can be.
    assert (inside.sum(0 if kind == 'horizontal' else 1) == 1).all()
    assert (abs(place[inside] - (width - 1) / 2) <= 0.5).all()


@pytest.mark.parametrize('slope', [0.2, 0.5, 1.0, 2.3])
def test_stairs_lose_their_corners_and_nothing_else(slope):
    y, x = np.indices((30, 40))
    below = y > 3 + slope * x
    stair = np.zeros(below.shape)
    stair[1:] = below[1:] != below[:-1]
    stair[:, 1:] += below[:, 1:] != below[:, :-1]
    stair = np.minimum(stair, 1)
    line = without_stairs(stair)
    # As many pixels as the longer side, all in one piece.
    assert line.sum() == np.ptp(np.argwhere(line), axis=0).max() + 1
    assert label(line, np.ones((3, 3)))[1] == 1
    assert not (line > stair).any()
    assert (without_stairs(line) == line).all()


def test_stairs_of_two_keep_the_likelier_pixel_and_crossings_stay():
    square = np.array([[0.9, 0.2], [0.3, 0.8]])
    assert (without_stairs(square) > 0).tolist() == [[True, False], [False, True]]
    cross = np.zeros((7, 7))
    cross[3] = cross[:, 3] = 1
    assert (without_stairs(cross) == cross).all()
    ring = np.zeros((7, 7))
    ring[1:6, 1:6] = 1
    ring[2:5, 2:5] = 0
    # The four corners go, the hole stays closed.
    assert without_stairs(ring).sum() == ring.sum() - 4


def test_a_soft_ridge_keeps_its_probabilities():
    x = np.arange(40)
    ridge = np.broadcast_to(0.8 * np.exp(-((x - 17) ** 2) / 8), (30, 40))
    thin = thin_edges(ridge)
    assert (np.flatnonzero(thin[15]) == [17]).all()
    assert thin[15, 17] == ridge[15, 17]
    assert not thin_edges(np.zeros((10, 10))).any()


def line(column, size=(20, 50), value=1.0):
    edges = np.zeros((1, *size))
    edges[..., column] = value
    return edges


def metric(**kwargs):
    # The diagonal of 20 x 50 is 53.85 pixels: a tolerance of 2.15.
    kwargs.setdefault('thresholds', [0.2, 0.5, 0.8])
    return EdgeMetric(max_dist=0.04, **kwargs)


def test_tolerance_in_place():
    near = sample(gt_edge_map=line(10), pred_edge_map=line(12, value=0.9))
    far = sample(gt_edge_map=line(10), pred_edge_map=line(13, value=0.9))
    assert evaluate(metric(), [near])['edge/odsF'] == 100
    assert evaluate(metric(), [far])['edge/odsF'] == 0


def test_one_true_pixel_explains_one_predicted_pixel():
    pred = line(10, value=0.9) + line(12, value=0.9)
    got = evaluate(
        metric(sigma=None), [sample(gt_edge_map=line(11), pred_edge_map=pred)]
    )
    assert got['edge/ods_precision'] == 50
    assert got['edge/ods_recall'] == 100
    assert got['edge/odsF'] == pytest.approx(200 / 3)


def test_one_threshold_for_all_or_one_per_image():
    # Right at .9 and wrong at .6 in one image, right at .3 alone in the other.
    first = sample(
        gt_edge_map=line(10), pred_edge_map=line(10, value=0.9) + line(30, value=0.6)
    )
    second = sample(gt_edge_map=line(10), pred_edge_map=line(10, value=0.3))
    got = evaluate(metric(), [first, second])
    # At .2: 40 right of 60, 40 true: F = .8. At .5: 20 of 40, F = .5. At .8: F = 2/3.
    assert got['edge/odsF'] == pytest.approx(80)
    assert got['edge/ods_threshold'] == 0.2
    assert got['edge/oisF'] == 100


def test_ignored_pixels_count_neither_way():
    truth = line(10)
    truth[..., 25:] = 255
    pred = line(10, value=0.9) + line(30, value=0.9)
    got = evaluate(metric(), [sample(gt_edge_map=truth, pred_edge_map=pred)])
    assert got['edge/odsF'] == 100


def test_image_without_edges_and_nothing_predicted():
    empty = sample(gt_edge_map=np.zeros((1, 20, 50)), pred_edge_map=line(3, value=0.9))
    one = sample(gt_edge_map=line(10), pred_edge_map=line(10, value=0.9))
    got = evaluate(metric(), [empty, one])
    assert got['edge/ods_precision'] == 50
    nothing = sample(gt_edge_map=line(10), pred_edge_map=np.zeros((1, 20, 50)))
    assert evaluate(metric(), [nothing])['edge/odsF'] == 0


def test_thresholds_by_number_and_bad_values():
    assert EdgeMetric().thresholds == pytest.approx(np.arange(1, 100) / 100)
    for wrong in (dict(max_dist=0), dict(thresholds=[0.5, 1]), dict(thresholds=0)):
        with pytest.raises(ValueError, match=r'EdgeMetric has max_dist.*evaluator'):
            EdgeMetric(**wrong)
    logits = sample(gt_edge_map=line(1), pred_edge_map=line(1, value=4))
    with pytest.raises(ValueError, match=r'from 0 to 4, expected probabilities'):
        evaluate(EdgeMetric(), [logits])
