from __future__ import annotations

import numpy as np
import pytest

from mmseg_xmodal.datasets.transforms import (
    ColorJitter,
    CropMargins,
    GaussianBlur,
    LoadLabels,
)

from .helpers import load_arrays, run


@pytest.fixture
def image() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(40, 200, (12, 16, 3), dtype=np.uint8)


ONE = (1.0, 1.0)


def jittered(image, **ranges) -> np.ndarray:
    neutral = dict(brightness=ONE, contrast=ONE, saturation=ONE, prob=1.0)
    return run(dict(img=image.copy()), [ColorJitter(**{**neutral, **ranges})])['img']


def test_factors_of_one_change_nothing(image):
    assert np.array_equal(jittered(image), image)


def test_what_each_factor_does(image):
    half = jittered(image, brightness=(0.5, 0.5)).astype(int)
    assert np.abs(half - image / 2).max() <= 1
    # Contrast draws towards the mean of the grey image, saturation towards its pixel.
    grey = image @ np.array([0.114, 0.587, 0.299])
    flat = jittered(image, contrast=(0.0, 0.0))
    assert np.ptp(flat) == 0
    assert abs(int(flat.flat[0]) - grey.mean()) <= 1
    pale = jittered(image, saturation=(0.0, 0.0)).astype(int)
    assert np.abs(pale - grey[..., None]).max() <= 1


def test_probability(image):
    changed = [
        not np.array_equal(
            run(dict(img=image.copy()), [ColorJitter(prob=0.2)], seed)['img'], image
        )
        for seed in range(300)
    ]
    assert 0.12 < np.mean(changed) < 0.28


def test_draws_differ_and_are_seeded(image):
    def draw(seed):
        return run(dict(img=image.copy()), [ColorJitter(prob=1.0)], seed)['img']

    assert np.array_equal(draw(1), draw(1))
    assert not np.array_equal(draw(1), draw(2))


def test_blur_is_the_three_tap_kernel(image):
    out = run(dict(img=image.copy()), [GaussianBlur(prob=1.0)])['img'].astype(float)
    taps = np.exp(-(np.array([-1.0, 0, 1]) ** 2) / (2 * 0.8**2))
    taps /= taps.sum()
    padded = np.pad(image.astype(float), ((1, 1), (1, 1), (0, 0)), 'reflect')
    rows = sum(t * padded[i : i + 12] for i, t in enumerate(taps))
    expected = sum(t * rows[:, i : i + 16] for i, t in enumerate(taps))
    assert np.abs(out - expected).max() < 1.01


def test_blur_of_one_channel_and_of_a_range(image):
    grey = image[..., :1]
    blur = GaussianBlur(kernel_size=0, sigma=(0.5, 1.0), prob=1.0)
    out = run(dict(img=grey.copy()), [blur])['img']
    assert out.shape == grey.shape
    assert out.std() < grey.std()
    assert np.array_equal(
        run(dict(img=grey.copy()), [GaussianBlur(prob=0.0)])['img'], grey
    )


@pytest.mark.parametrize('size', [0, 4, -3])
def test_wrong_blur(size):
    message = f'kernel_size={size} .*expected an odd size above 0.*in the pipeline'
    with pytest.raises(ValueError, match=message):
        GaussianBlur(kernel_size=size)
    with pytest.raises(ValueError, match='kernel_size=-3'):
        GaussianBlur(kernel_size=-3, sigma=(0.5, 1.0))


@pytest.mark.parametrize('part', [ColorJitter, GaussianBlur])
@pytest.mark.parametrize('prob', [-0.1, 1.5, 20])
def test_wrong_probability(part, prob):
    message = rf'{part.__name__} has prob={prob}, .*in \[0, 1\]. Change it in the pip'
    with pytest.raises(ValueError, match=message):
        part(prob=prob)


def test_on_one_modality_of_a_stack(tmp_path, image):
    modalities = dict(
        rgb=dict(channels=3, order='rgb'), nir=dict(channels=1, dtype='uint8')
    )
    arrays = dict(rgb=image, nir=image[..., 0])
    results = load_arrays(tmp_path, modalities, arrays)
    before = results['img'].copy()
    transforms = [
        dict(type='mmseg_xmodal.ColorJitter', prob=1.0),
        dict(type='mmseg_xmodal.GaussianBlur', prob=1.0),
    ]
    on = dict(type='mmseg_xmodal.OnModalities', names=['rgb'], transforms=transforms)
    after = run(results, [on])['img']
    assert np.array_equal(after[..., 3:], before[..., 3:])
    assert not np.array_equal(after[..., :3], before[..., :3])


def test_margins_of_image_and_labels():
    image = np.arange(4 * 6).reshape(4, 6, 1)
    results = dict(img=image, gt_seg_map=image[..., 0], seg_fields=['gt_seg_map'])
    out = CropMargins(left=2, right=1, top=1)(results)
    assert np.array_equal(out['img'], image[1:, 2:5])
    assert np.array_equal(out['gt_seg_map'], image[1:, 2:5, 0])
    assert out['img_shape'] == out['ori_shape'] == (3, 3)


def test_margins_of_labels_only():
    results = dict(
        img=np.zeros((5, 7, 1)),
        gt_seg_map=np.zeros((4, 6)),
        seg_fields=['gt_seg_map'],
        ori_shape=(3, 3),
    )
    out = CropMargins(left=2, right=1, top=1, only_labels=True)(results)
    assert out['img'].shape == (5, 7, 1)
    assert out['gt_seg_map'].shape == (3, 3)
    assert out['ori_shape'] == (3, 3)


def test_margins_that_leave_nothing():
    with pytest.raises(ValueError, match=r'left=4.*leaves nothing of .*4 x 6'):
        CropMargins(left=4, right=2)(dict(img=np.zeros((4, 6, 1)), img_path='a.png'))


@pytest.mark.parametrize('side', ['left', 'top', 'right', 'bottom'])
def test_margins_below_zero(side):
    with pytest.raises(ValueError, match=f'{side}=-4.*expected 0 or more.*pipeline'):
        CropMargins(**{side: -4})


@pytest.mark.parametrize('channel', range(4))
def test_labels_in_one_of_four_channels(tmp_path, channel):
    import cv2

    ids = np.arange(4, dtype=np.uint8)
    path = str(tmp_path / 'labels.png')
    cv2.imwrite(path, np.tile(ids[[2, 1, 0, 3]], (3, 5, 1)))
    results = dict(seg_map_path=path, reduce_zero_label=False, seg_fields=[])
    labels = LoadLabels(channel=channel)(results)['gt_seg_map']
    assert labels.shape == (3, 5)
    assert (labels == channel).all()


def test_labels_of_a_channel_that_is_not_there(tmp_path):
    import cv2

    path = str(tmp_path / 'labels.png')
    cv2.imwrite(path, np.zeros((3, 5, 3), np.uint8))
    results = dict(seg_map_path=path, reduce_zero_label=False, seg_fields=[])
    with pytest.raises(ValueError, match='has 3 channels, expected channel 3'):
        LoadLabels(channel=3)(results)
