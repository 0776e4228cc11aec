from __future__ import annotations

import numpy as np
import pytest

from mmseg_xmodal.datasets.transforms import FillInvalid

from .helpers import load_arrays, run

UINT8 = dict(channels=1, dtype='uint8', invalid=0)
METRES = dict(channels=1, dtype='uint16', invalid=0, scale=0.01)


def ramp():
    depth = np.tile(np.arange(10, 30), (16, 1))
    depth[5:9, 8:12] = 0
    return depth


@pytest.fixture(params=[UINT8, METRES], ids=['uint8', 'float'])
def sample(request, tmp_path):
    return load_arrays(
        tmp_path,
        dict(depth=request.param),
        dict(depth=ramp().astype(request.param['dtype'])),
    )


def unit(results):
    return results['modality_layout']['depth'].scale


@pytest.mark.parametrize('method', ['nearest', 'max', 'telea', 'ns'])
def test_fills_the_hole_only_and_marks_it_valid(sample, method):
    before, hole = sample['img'].copy(), ramp() == 0
    results = FillInvalid(['depth'], method)(sample)
    value, valid = results['img'][..., 0], results['img'][..., 1]
    assert (valid == results['modality_layout'].validity_max).all()
    assert np.array_equal(results['img'][~hole], before[~hole])
    filled = value[hole] / unit(results)
    assert filled.min() >= 9.5
    assert filled.max() <= 29.5
    if method == 'max':
        np.testing.assert_allclose(filled, 29, rtol=1e-6)
    if method in ('telea', 'ns'):
        # The surroundings are a ramp of one per column; the hole spans 18 to 21.
        np.testing.assert_allclose(filled, np.tile(np.arange(18, 22), 4), atol=2)


def test_nearest_takes_the_nearest(sample):
    results = FillInvalid(['depth'], 'nearest')(sample)
    value = results['img'][..., 0] / unit(results)
    depth = ramp()
    places = np.argwhere(depth > 0)
    for hole in np.argwhere(depth == 0):
        distance = np.hypot(*(places - hole).T)
        # Several are equally near in the corners and the middle of the hole.
        nearest = depth[tuple(places[distance == distance.min()].T)]
        assert np.abs(value[tuple(hole)] - nearest).min() < 1e-4, hole


def test_max_distance_leaves_the_rest_invalid(sample):
    results = FillInvalid(['depth'], max_distance=1)(sample)
    valid = results['img'][..., 1] > 0
    assert (~valid).sum() == 4
    assert (results['img'][..., 0][~valid] == 0).all()


def test_after_a_resize_values_come_from_valid_pixels(sample):
    results = run(
        sample,
        [dict(type='Resize', scale=(37, 29)), FillInvalid(['depth'], 'nearest')],
    )
    value, valid = (results['img'][..., c].astype(float) for c in (0, 1))
    got = value / (valid / results['modality_layout'].validity_max) / unit(results)
    # uint8 rounds value and weight, each by .5 of 255 at a weight above a half.
    tolerance = 1.0 if results['img'].dtype == np.uint8 else 1e-3
    assert got.min() >= 10 - tolerance
    assert got.max() <= 29 + tolerance


@pytest.mark.parametrize('missing', [True, False])
def test_nothing_to_learn_from_or_nothing_to_do(tmp_path, missing):
    array = np.full((4, 5), 0 if missing else 9, np.uint8)
    sample = load_arrays(tmp_path, dict(depth=UINT8), dict(depth=array))
    before = sample['img'].copy()
    assert np.array_equal(FillInvalid(['depth'])(sample)['img'], before)


@pytest.mark.parametrize('method', ['nearest', 'max', 'telea', 'ns'])
def test_a_constant_stays_constant(tmp_path, method):
    array = np.full((9, 9), 2.5, np.float32)
    array[3:5, 3:6] = -1
    sample = load_arrays(
        tmp_path, dict(depth=dict(channels=1, invalid=-1)), dict(depth=array)
    )
    assert (FillInvalid(['depth'], method)(sample)['img'][..., 0] == 2.5).all()


def test_several_channels(tmp_path):
    bands = np.stack([ramp(), ramp() * 2, ramp() * 3], -1).astype(np.float32)
    sample = load_arrays(tmp_path, dict(x=dict(channels=3, invalid=0)), dict(x=bands))
    img = FillInvalid('x', 'nearest')(sample)['img']
    np.testing.assert_allclose(img[..., 1], img[..., 0] * 2)
    np.testing.assert_allclose(img[..., 2], img[..., 0] * 3)


def test_refuses_a_modality_without_validity(tmp_path):
    rgb = dict(channels=3, order='rgb')
    sample = load_arrays(
        tmp_path, dict(rgb=rgb), dict(rgb=np.ones((2, 2, 3), np.uint8))
    )
    with pytest.raises(ValueError, match=r"modalities\['rgb'\]\['invalid'\]"):
        FillInvalid(['rgb'])(sample)


def test_refuses_an_unknown_method():
    with pytest.raises(ValueError, match="'mean'.*'nearest'.*in the pipeline"):
        FillInvalid(['depth'], 'mean')
