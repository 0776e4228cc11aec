"""Properties of the geometry of multi-task samples, for any size and draw."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmseg_xmodal.datasets.transforms import (
    XModalRandomCrop,
    XModalRandomFlip,
    XModalRandomRotate,
    XModalResize,
)

from .helpers import run
from .multitask_samples import KINDS, make_sample, sphere

FAST = settings(max_examples=40, deadline=None)
SEEDS = st.integers(0, 2**31 - 1)
SIZES = st.tuples(st.integers(8, 28), st.integers(8, 28))
DIRECTIONS = st.sampled_from(['horizontal', 'vertical', 'diagonal'])
FIELDS = ('img', 'gt_seg_map', *KINDS, 'gt_bboxes_labels', 'gt_ignore_flags')


def flip(direction):
    return XModalRandomFlip(prob=1.0, direction=direction)


def rotate(degree, **kwargs):
    # Between two angles a millionth of a degree apart: RandomRotate takes a range.
    return XModalRandomRotate(prob=1.0, degree=(degree, degree + 1e-6), **kwargs)


def geometry(size, crop):
    return [
        dict(
            type='mmseg_xmodal.XModalRandomResize',
            scale=(size[1], size[0]),
            ratio_range=(0.5, 2.0),
            keep_ratio=True,
        ),
        XModalRandomCrop(crop_size=crop, cat_max_ratio=0.75),
        XModalRandomRotate(prob=0.7, degree=40.0),
        XModalRandomFlip(prob=0.6, direction=['horizontal', 'vertical', 'diagonal']),
    ]


@FAST
@given(SIZES, SEEDS, DIRECTIONS)
def test_flip_twice_is_the_identity_for_every_field(size, seed, direction):
    before, sample = make_sample(size, seed), make_sample(size, seed)
    once = run(sample, [flip(direction)])
    assert not np.array_equal(once['gt_bboxes'], before['gt_bboxes'])
    changed = [k for k in ('img', 'gt_seg_map', *KINDS) if not same(once, before, k)]
    assert len(changed) == 2 + len(KINDS)
    twice = run(once, [flip(direction)])
    for key in (*FIELDS, 'gt_img_label'):
        assert same(twice, before, key), key
    # width - (width - x) in float32 is off by half a step of the width at most.
    step = np.spacing(np.float32(max(size)))
    np.testing.assert_allclose(twice['gt_bboxes'], before['gt_bboxes'], 0, step)


def same(one, other, key):
    equal_nan = one[key].dtype.kind == 'f'
    return np.array_equal(one[key], other[key], equal_nan=equal_nan)


@FAST
@given(SIZES, SEEDS, st.tuples(st.integers(5, 30), st.integers(5, 30)))
def test_values_stay_what_they_are(size, seed, crop):
    before, sample = make_sample(size, seed), make_sample(size, seed)
    after = run(sample, geometry(size, crop), seed)
    for key in ('gt_seg_map', 'gt_landcover', 'gt_edge_map'):
        assert after[key].dtype == np.uint8
        assert set(np.unique(after[key])) <= {*np.unique(before[key]), 255}
    for key in ('img', 'gt_seg_map', *KINDS):
        assert after[key].shape[:2] == after['img'].shape[:2]
    values = after['gt_elevation']
    assert values.dtype == after['gt_depth_map'].dtype == np.float32
    assert np.isin(values[~np.isnan(values)], before['gt_elevation']).all()
    normals = after['gt_normal_map']
    missing = np.isnan(normals)
    assert (missing.all(-1) == missing.any(-1)).all()
    lengths = np.linalg.norm(normals[~missing.any(-1)], axis=-1)
    np.testing.assert_allclose(lengths, 1, atol=1e-5)  # rounding of float32
    assert np.array_equal(after['gt_img_label'], before['gt_img_label'])


@FAST
@given(SIZES, SEEDS, st.tuples(st.integers(5, 30), st.integers(5, 30)))
def test_boxes_keep_their_labels_and_lie_inside(size, seed, crop):
    sample = make_sample(size, seed)
    # The label says which box it was, the flag is tied to the label.
    after = run(sample, geometry(size, crop), seed)
    boxes, labels = after['gt_bboxes'], after['gt_bboxes_labels']
    assert boxes.dtype == np.float32
    assert len(boxes) == len(labels) == len(after['gt_ignore_flags'])
    assert len(set(labels)) == len(labels)
    assert np.array_equal(after['gt_ignore_flags'], labels == 2)
    height, width = after['img'].shape[:2]
    assert (boxes >= 0).all()
    assert (boxes <= [width, height, width, height]).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()


@st.composite
def objects(draw, rectangles=False):
    """A picture with one object, a rectangle or an ellipse."""
    height, width = draw(st.tuples(st.integers(16, 40), st.integers(16, 40)))
    h, w = draw(st.integers(4, height)), draw(st.integers(4, width))
    y, x = draw(st.integers(0, height - h)), draw(st.integers(0, width - w))
    mask = np.zeros((height, width), np.uint8)
    if rectangles or draw(st.booleans()):
        mask[y : y + h, x : x + w] = 1
    else:
        rows, columns = np.mgrid[:h, :w] + 0.5
        mask[y : y + h, x : x + w] = (2 * rows / h - 1) ** 2 + (
            2 * columns / w - 1
        ) ** 2 <= 1
    return mask


def with_object(mask):
    sample = make_sample(mask.shape)
    sample['gt_seg_map'] = mask
    sample['gt_bboxes'] = box_around(mask)[None]
    sample['gt_bboxes_labels'] = np.array([1])
    sample['gt_ignore_flags'] = np.array([False])
    return sample


def box_around(mask):
    rows, columns = np.nonzero(mask == 1)
    low = columns.min(), rows.min()
    return np.array((*low, columns.max() + 1, rows.max() + 1), np.float32)


def without_rotation(size, crop):
    moves = geometry(size, crop)
    moves[1].min_area_share = 0.0
    return [move for move in moves if not isinstance(move, XModalRandomRotate)]


@settings(max_examples=80, deadline=None)
@given(
    objects(rectangles=True), SEEDS, st.tuples(st.integers(8, 30), st.integers(8, 30))
)
def test_box_and_mask_of_an_object_stay_consistent(mask, seed, crop):
    after = run(with_object(mask), without_rotation(mask.shape, crop), seed)
    if not (after['gt_seg_map'] == 1).any():
        # Gone from the picture, or down to a sliver thinner than a pixel.
        sides = after['gt_bboxes'][:, 2:] - after['gt_bboxes'][:, :2]
        assert (sides.min(1) < 1).all()
        return
    assert len(after['gt_bboxes']) == 1
    # Nearest sampling moves a border by less than a pixel.
    assert np.abs(after['gt_bboxes'][0] - box_around(after['gt_seg_map'])).max() <= 1


@FAST
@given(objects(), SEEDS, st.tuples(st.integers(8, 30), st.integers(8, 30)))
def test_an_object_of_any_shape_lies_in_its_box(mask, seed, crop):
    """A crop may cut off the part that reached furthest: the box is then larger."""
    after = run(with_object(mask), without_rotation(mask.shape, crop), seed)
    if (after['gt_seg_map'] == 1).any():
        inner, outer = box_around(after['gt_seg_map']), after['gt_bboxes'][0]
        assert (inner[:2] >= outer[:2] - 1).all()
        assert (inner[2:] <= outer[2:] + 1).all()


@FAST
@given(objects(), st.floats(-180, 180), st.booleans())
def test_a_rotated_object_lies_in_its_box(mask, degree, auto_bound):
    after = run(
        with_object(mask),
        [rotate(degree, auto_bound=auto_bound, box_hull='corners', min_area_share=0)],
    )
    if (after['gt_seg_map'] == 1).any():
        inner, outer = box_around(after['gt_seg_map']), after['gt_bboxes'][0]
        # A pixel is sampled at its centre: its corners reach out by less than one.
        assert (inner[:2] >= outer[:2] - 1).all()
        assert (inner[2:] <= outer[2:] + 1).all()


@FAST
@given(st.floats(-180, 180), st.floats(1, 3))
def test_the_box_of_a_rotated_ellipse_is_tight(degree, ratio):
    y, x = np.mgrid[:61, :61] - 30
    mask = ((x / 24) ** 2 + (y / (24 / ratio)) ** 2 <= 1).astype(np.uint8)
    after = run(with_object(mask), [rotate(degree)])
    # One pixel by sampling the ellipse itself, half a pixel by nearest rotation.
    error = np.abs(after['gt_bboxes'][0] - box_around(after['gt_seg_map']))
    assert error.max() <= 1.5


@FAST
@given(SIZES, SEEDS, st.tuples(st.integers(4, 60), st.integers(4, 60)), st.booleans())
def test_depth_times_size_is_kept(size, seed, scale, keep_ratio):
    """An object twice as large in the picture is twice as near."""
    before, sample = make_sample(size, seed), make_sample(size, seed)
    after = run(sample, [XModalResize(scale=scale, keep_ratio=keep_ratio)])
    height, width = after['img'].shape[:2]
    factor = math.sqrt(height * width / (size[0] * size[1]))
    products = after['gt_depth_map'] * np.float64(factor)
    known = np.sort(before['gt_depth_map'][~np.isnan(before['gt_depth_map'])])
    for product in products[~np.isnan(products)]:
        # Two roundings to float32.
        assert np.isclose(known, product, rtol=3e-7, atol=0).any()
    kept = run(make_sample(size, seed), [XModalResize(scale, rescale_depth=False)])
    kept = kept['gt_depth_map']
    assert np.isin(kept[~np.isnan(kept)], known).all()


@FAST
@given(SIZES, SEEDS, st.tuples(st.integers(2, 28), st.integers(2, 28)))
def test_no_edge_vanishes_or_appears(size, seed, new):
    before, sample = make_sample(size, seed), make_sample(size, seed)
    after = run(sample, [XModalResize(scale=new[::-1])])['gt_edge_map']
    assert after.shape == new
    edges = before['gt_edge_map']
    rows = [bins(size[0], new[0]), bins(size[1], new[1])]
    for i, (top, bottom) in enumerate(rows[0]):
        for j, (left, right) in enumerate(rows[1]):
            cell = edges[top:bottom, left:right]
            want = 1 if (cell == 1).any() else 255 if (cell == 255).any() else 0
            assert after[i, j] == want


def bins(old, new):
    """Pixels of the old axis that a pixel of the new one stands for."""
    starts = [i * old // new for i in range(new)] + [old]
    return [(a, max(b, a + 1)) for a, b in zip(starts, starts[1:], strict=False)]


@FAST
@given(st.floats(-180, 180), st.floats(-8, 8), st.floats(-8, 8))
def test_rotated_normals_of_a_sphere_are_those_of_the_rotated_sphere(degree, dx, dy):
    size, radius = (61, 61), 16
    sample = make_sample(size)
    sample['gt_normal_map'] = sphere(size, (30 + dx, 30 + dy), radius)
    after = run(sample, [rotate(degree)])['gt_normal_map']
    angle = np.deg2rad(degree)
    # Clockwise, y down: right becomes down.
    x = 30 + dx * np.cos(angle) - dy * np.sin(angle)
    y = 30 + dx * np.sin(angle) + dy * np.cos(angle)
    want = sphere(size, (x, y), radius)
    inner = want[..., 2] > 0.6
    assert inner.sum() > 300
    # Nearest sampling takes a value from up to half a diagonal of a pixel away.
    off = np.abs(after[inner] - want[inner])[:, :2].max()
    assert off <= (0.5 * math.sqrt(2) + 0.01) / radius


@pytest.mark.parametrize(
    ('direction', 'center'), [('horizontal', (40, 25)), ('vertical', (20, 35))]
)
def test_flipped_normals_of_a_sphere_are_those_of_the_flipped_sphere(direction, center):
    sample = make_sample((61, 61))
    sample['gt_normal_map'] = sphere((61, 61), (20, 25), 15)
    after = run(sample, [flip(direction)])['gt_normal_map']
    np.testing.assert_array_equal(after, sphere((61, 61), center, 15))
