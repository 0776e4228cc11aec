from __future__ import annotations

import numpy as np
import pytest

from mmseg_xmodal.datasets.transforms import XModalCutOut

from .helpers import load_arrays

MODALITIES = dict(
    rgb=dict(channels=3, order='rgb', mean=[30, 20, 10]),
    depth=dict(channels=1, dtype='uint8', invalid=0),
    xbands=dict(channels=6, dtype='uint8', fill=77),
)


@pytest.fixture
def sample(tmp_path):
    arrays = dict(
        rgb=np.full((10, 12, 3), 200, np.uint8),
        depth=np.full((10, 12), 200, np.uint8),
        xbands=np.full((10, 12, 6), 200, np.uint8),
    )
    labels = np.ones((10, 12), np.uint8)
    return load_arrays(tmp_path, MODALITIES, arrays, labels)


def cut(**kwargs):
    kwargs = (
        dict(
            prob=1.0, n_holes=2, cutout_shape=(4, 5), generator=np.random.default_rng(3)
        )
        | kwargs
    )
    return XModalCutOut(**kwargs)


def test_holes_are_invalid_or_filled(sample):
    results = cut(seg_fill_in=255)(sample)
    img, hole = results['img'], results['gt_seg_map'] == 255
    assert 0 < hole.sum() <= 40
    assert (img[..., 3][hole] == 0).all()
    assert np.array_equal(img[..., 10] == 0, hole)
    assert (img[..., :3][hole] == [10, 20, 30]).all()
    assert (img[..., 4:10][hole] == 77).all()
    assert (img[~hole] == [200] * 10 + [255]).all()


def test_only_named_modalities(sample):
    img = cut(names=['depth'])(sample)['img']
    assert (img[..., 3] == 0).any()
    assert (img[..., :3] == 200).all()
    assert (img[..., 4:10] == 200).all()


def test_own_holes_per_modality(sample):
    img = cut(shared=False, n_holes=1)(sample)['img']
    holes = [img[..., c] != 200 for c in (0, 3, 4)]
    assert all(h.any() for h in holes)
    assert not np.array_equal(holes[0], holes[1])
    assert not np.array_equal(holes[1], holes[2])
    assert (sample['gt_seg_map'] == 1).all()


def test_ratio_and_ranges(sample):
    transform = cut(
        cutout_shape=None, cutout_ratio=[(0.1, 0.5), (0.2, 0.25)], n_holes=(1, 1)
    )
    for _ in range(5):
        img = transform(dict(sample, img=sample['img'].copy()))['img']
        ys, xs = np.nonzero(img[..., 3] == 0)
        shape = (np.ptp(ys) + 1, np.ptp(xs) + 1)
        # Smaller where the hole passes the border.
        assert (shape[0] <= 1 and shape[1] <= 6) or (shape[0] <= 2 and shape[1] <= 3)


def test_probability_zero_changes_nothing(sample):
    before = sample['img'].copy()
    assert np.array_equal(cut(prob=0.0)(sample)['img'], before)


@pytest.mark.parametrize(
    ('change', 'pattern'),
    [
        (dict(prob=2), r'prob is 2, .*\[0, 1\]. Change it in the pipeline'),
        (dict(cutout_ratio=(0.1, 0.1)), 'exactly one'),
        (dict(cutout_shape=None), 'exactly one'),
        (dict(shared=False, seg_fill_in=255), 'seg_fill_in=255 needs shared=True'),
    ],
)
def test_wrong_arguments(change, pattern):
    with pytest.raises(ValueError, match=pattern):
        cut(**change)
