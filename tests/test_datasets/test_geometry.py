"""The geometry of multi-task samples on cases worked out by hand, and wrong input."""

from __future__ import annotations

import numpy as np
import pytest

from mmseg_xmodal.datasets.transforms import (
    XModalCutOut,
    XModalRandomCrop,
    XModalRandomFlip,
    XModalRandomRotate,
    XModalResize,
)

from .helpers import run
from .multitask_samples import make_sample

QUARTER = dict(prob=1.0, degree=(90.0, 90.0))


def crop_at(y, x, size, **kwargs):
    """A crop whose place is known."""
    transform = XModalRandomCrop(crop_size=size, **kwargs)
    transform.crop_bbox = lambda results: (y, y + size[0], x, x + size[1])
    return transform


def with_boxes(size, *boxes, ignore=None):
    sample = make_sample(size)
    sample['gt_bboxes'] = np.array(boxes, np.float32)
    sample['gt_bboxes_labels'] = np.arange(len(boxes))
    sample['gt_ignore_flags'] = np.zeros(len(boxes), bool)
    if ignore is not None:
        sample['gt_ignore_flags'][ignore] = True
    return sample


def test_a_crop_moves_clips_and_drops_boxes():
    sample = with_boxes(
        (20, 30),
        (0, 0, 6, 6),  # outside
        (4, 4, 12, 12),  # 4 of 8 columns and rows: a quarter is left
        (5, 4, 9, 12),  # 1 of 4 columns: an eighth
        (10, 9, 14, 15),  # inside
        (5, 4, 9, 12),  # an eighth, but ignored
        ignore=4,
    )
    after = run(sample, [crop_at(8, 8, (10, 12))])
    assert after['gt_bboxes'].tolist() == [[0, 0, 4, 4], [2, 1, 6, 7], [0, 0, 1, 4]]
    assert after['gt_bboxes_labels'].tolist() == [1, 3, 4]
    assert after['gt_ignore_flags'].tolist() == [False, False, True]
    assert after['img_shape'] == (10, 12)


def test_all_boxes_may_go():
    after = run(with_boxes((20, 30), (0, 0, 3, 3)), [crop_at(8, 8, (10, 12))])
    assert after['gt_bboxes'].shape == (0, 4)
    assert after['gt_bboxes_labels'].shape == after['gt_ignore_flags'].shape == (0,)


def test_a_quarter_turn_is_clockwise_for_everything():
    size = (21, 21)
    sample = with_boxes(size, (12, 4, 20, 8))
    before = {k: sample[k].copy() for k in ('img', *sample['seg_fields'])}
    sample['gt_normal_map'][:] = before['gt_normal_map'][:] = (0.6, 0, 0.8)
    after = run(sample, [XModalRandomRotate(**QUARTER)])
    # What was right is below now: rows become columns from right to left.
    for key in ('gt_seg_map', 'gt_depth_map', 'gt_edge_map', 'gt_landcover'):
        np.testing.assert_array_equal(after[key], np.rot90(before[key], -1))
    np.testing.assert_allclose(after['img'], np.rot90(before['img'], -1), atol=1e-3)
    np.testing.assert_allclose(after['gt_bboxes'], [[13, 12, 17, 20]], atol=1e-4)
    # A plane that falls off to the right falls off downwards.
    np.testing.assert_allclose(after['gt_normal_map'][10, 10], (0, 0.6, 0.8), atol=1e-6)


def test_borders_of_a_rotation_are_unknown():
    sample = make_sample((20, 30))
    for key in ('gt_depth_map', 'gt_elevation', 'gt_normal_map'):
        sample[key][:] = 0.5
    for key in ('gt_seg_map', 'gt_landcover', 'gt_edge_map'):
        sample[key][:] = 1
    rotate = XModalRandomRotate(prob=1.0, degree=(30.0, 30.0), seg_pad_val=254)
    after = run(sample, [rotate])
    corner, middle = (0, 0), (10, 15)
    assert (after['gt_seg_map'][corner], after['gt_landcover'][corner]) == (254, 254)
    assert after['gt_edge_map'][corner] == 255
    for key in ('gt_depth_map', 'gt_elevation', 'gt_normal_map'):
        assert np.isnan(after[key][corner]).all()
        assert np.isfinite(after[key][middle]).all()
    assert after['gt_seg_map'][middle] == after['gt_edge_map'][middle] == 1


def test_rotation_with_auto_bound_says_the_new_size():
    rotate = XModalRandomRotate(**QUARTER, auto_bound=True)
    after = run(with_boxes((20, 30), (12, 4, 20, 8)), [rotate])
    assert after['img_shape'] == after['gt_normal_map'].shape[:2] == (30, 20)
    np.testing.assert_allclose(after['gt_bboxes'], [[12, 12, 16, 20]], atol=1e-4)


def test_the_two_hulls_of_a_turned_square():
    boxes = {}
    for hull in ('corners', 'ellipse'):
        rotate = XModalRandomRotate(prob=1.0, degree=(45.0, 45.0), box_hull=hull)
        boxes[hull] = run(with_boxes((41, 41), (10.5, 10.5, 30.5, 30.5)), [rotate])
    half = np.sqrt(2) * 10
    want = [20.5 - half, 20.5 - half, 20.5 + half, 20.5 + half]
    np.testing.assert_allclose(boxes['corners']['gt_bboxes'], [want], atol=1e-4)
    circle = [10.5, 10.5, 30.5, 30.5]
    np.testing.assert_allclose(boxes['ellipse']['gt_bboxes'], [circle], atol=1e-4)


def test_a_thin_edge_survives_where_nearest_loses_it():
    sample = make_sample((16, 16))
    sample['gt_edge_map'][:] = 0
    sample['gt_edge_map'][:, 7] = 1
    stock = dict(sample, seg_fields=['gt_edge_map'])
    half = dict(type='Resize', scale=(8, 8))
    assert not run(stock, [half])['gt_edge_map'].any()
    after = run(
        make_sample((16, 16)) | dict(gt_edge_map=sample['gt_edge_map']),
        [XModalResize(scale=(8, 8))],
    )['gt_edge_map']
    assert np.array_equal(np.flatnonzero(after.any(0)), [3])


def test_left_and_right_are_swapped_in_the_main_labels_only():
    sample = make_sample((8, 9))
    before = {key: sample[key].copy() for key in sample['seg_fields']}
    flip = XModalRandomFlip(prob=1.0, swap_seg_labels=[(3, 4)])
    after = run(sample, [flip])
    swapped = before['gt_seg_map'][:, ::-1].copy()
    swapped = np.choose(swapped, [0, 1, 2, 4, 3])
    assert np.array_equal(after['gt_seg_map'], swapped)
    assert np.array_equal(after['gt_landcover'], before['gt_landcover'][:, ::-1])


STOCK = dict(
    resize=(
        dict(type='RandomResize', scale=(30, 20), ratio_range=(0.5, 2.0)),
        dict(keep_ratio=True),
    ),
    crop=(dict(type='RandomCrop', crop_size=(9, 11), cat_max_ratio=0.6), {}),
    flip=(dict(type='RandomFlip', prob=0.5, direction=['horizontal', 'vertical']), {}),
    rotate=(dict(type='RandomRotate', prob=0.8, degree=30.0, auto_bound=True), {}),
)


@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize('name', STOCK)
def test_plain_segmentation_samples_as_stock(name, seed):
    """The same draws, images, labels and meta values."""
    cfg = STOCK[name][0] | STOCK[name][1]
    ours = cfg | dict(type=f'mmseg_xmodal.XModal{cfg["type"]}')
    rng = np.random.default_rng(seed)
    sample = dict(
        img=rng.integers(0, 255, (20, 30, 5), dtype=np.uint8),
        gt_seg_map=rng.integers(0, 4, (20, 30), dtype=np.uint8),
    )
    want, got = (
        run(
            {k: v.copy() for k, v in sample.items()} | dict(seg_fields=['gt_seg_map']),
            [c],
            seed,
        )
        for c in (cfg, ours)
    )
    for key in ('img', 'gt_seg_map'):
        np.testing.assert_array_equal(got[key], want[key])
    if name != 'rotate':  # the stock one leaves the old shape there
        assert {k: v for k, v in got.items() if np.ndim(v) < 2} == {
            k: v for k, v in want.items() if np.ndim(v) < 2
        }


def test_a_sample_without_main_labels_is_cropped_anywhere():
    sample = make_sample((20, 30))
    del sample['gt_seg_map']
    sample['seg_fields'].remove('gt_seg_map')
    after = run(sample, [XModalRandomCrop(crop_size=(9, 11), cat_max_ratio=0.7)])
    assert after['gt_depth_map'].shape == after['img'].shape[:2] == (9, 11)


def test_holes_hide_targets_too():
    sample = make_sample((20, 30))
    cut = XModalCutOut(prob=1.0, n_holes=1, cutout_shape=(40, 60), seg_fill_in=4)
    after = run(sample, [cut])
    hole = after['img'][..., -1] == 0
    assert hole.any()
    assert (after['gt_seg_map'][hole] == 4).all()
    assert (after['gt_edge_map'][hole] == 255).all()
    assert np.isnan(after['gt_depth_map'][hole]).all()
    assert np.isnan(after['gt_normal_map'][hole]).all()


@pytest.mark.parametrize(
    ('make', 'pattern'),
    [
        (lambda: XModalRandomCrop(4, min_area_share=2), 'min_area_share is 2'),
        (lambda: XModalRandomRotate(1.0, 9.0, min_area_share=-1), 'min_area_share is'),
        (lambda: XModalRandomRotate(1.0, 9.0, box_hull='x'), "box_hull is 'x'"),
    ],
)
def test_wrong_arguments(make, pattern):
    with pytest.raises(ValueError, match=pattern):
        make()


def test_representations():
    assert 'rescale_depth=True' in repr(XModalResize(scale=(4, 4)))
    assert 'min_area_share=0.25' in repr(XModalRandomCrop(4))
    assert "box_hull='ellipse'" in repr(XModalRandomRotate(0.5, 9.0))
