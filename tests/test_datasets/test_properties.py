"""Properties that hold for any layout, size and draw."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmseg_xmodal.datasets.transforms import OnModalities, PackXModalInputs
from mmseg_xmodal.registry import MODELS

from .helpers import load_arrays, run

SEEDS = st.integers(0, 2**31 - 1)
SIZES = st.tuples(st.integers(6, 24), st.integers(6, 24))
FAST = settings(max_examples=40, deadline=None)
ROTATED = 0  # what RandomRotate puts into the corners
HOLE = 3  # stored value that means "no measurement" in this file


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('properties')


@st.composite
def layouts(draw):
    """One to four modalities whose stack has at most 12 channels, uint8 or float32."""
    dtype = draw(st.sampled_from(['uint8', 'float32']))
    modalities = {}
    for i in range(draw(st.integers(1, 4))):
        field = dict(channels=draw(st.integers(1, 2)), dtype=dtype)
        if draw(st.booleans()):
            field['invalid'] = HOLE
        modalities[f'm{i}'] = field
    return modalities


def arrays_for(modalities, size, seed):
    """Values in [100, 200], a tenth of the pixels without measurement."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, field in modalities.items():
        array = rng.integers(100, 201, (*size, field['channels'])).astype(
            field['dtype']
        )
        if 'invalid' in field:
            array[rng.random(size) < 0.1] = HOLE
        arrays[name] = array
    return arrays


def geometry(size, crop):
    """Resize, crop, rotate and flip as stock configs write them."""
    return [
        dict(
            type='RandomResize',
            scale=(size[1], size[0]),
            ratio_range=(0.6, 1.8),
            keep_ratio=True,
        ),
        dict(type='RandomCrop', crop_size=crop),
        dict(type='RandomRotate', prob=0.7, degree=40.0),
        dict(type='RandomFlip', prob=0.5),
    ]


@FAST
@given(layouts(), SIZES, SEEDS, st.sampled_from(['horizontal', 'vertical', 'diagonal']))
def test_flip_twice_is_the_identity(folder, modalities, size, seed, direction):
    labels = np.random.default_rng(seed).integers(0, 5, size).astype(np.uint8)
    arrays = arrays_for(modalities, size, seed)
    sample = load_arrays(folder, modalities, arrays, labels)
    before = sample['img'].copy()
    flip = dict(type='RandomFlip', prob=1.0, direction=direction)
    once = run(sample, [flip])
    assert once['flip'] is True
    twice = run(once, [flip])
    assert np.array_equal(twice['img'], before)
    assert np.array_equal(twice['gt_seg_map'], labels)


@FAST
@given(
    st.integers(2, 6),
    st.booleans(),
    st.sampled_from(['uint8', 'float32']),
    SIZES,
    SEEDS,
)
def test_every_modality_sees_the_same_geometry(folder, count, holes, dtype, size, seed):
    """The same raster in several modalities stays the same in all of them."""
    field = dict(channels=1, dtype=dtype)
    if holes:
        field['invalid'] = HOLE
    modalities = {f'm{i}': field for i in range(count)}
    raster = arrays_for(dict(m0=field), size, seed)['m0']
    sample = load_arrays(folder, modalities, dict.fromkeys(modalities, raster))
    img = run(sample, geometry(size, (12, 10)), seed)['img']
    img = np.atleast_3d(img)
    layout = sample['modality_layout']
    for name in layout.names:
        assert np.array_equal(
            img[..., layout.value_slice(name)], img[..., layout.value_slice('m0')]
        )
        index = layout.stack_validity_index(name)
        if index is not None:
            first = layout.stack_validity_index('m0')
            assert np.array_equal(img[..., index], img[..., first])


@FAST
@given(
    layouts(),
    SIZES,
    SEEDS,
    st.tuples(st.integers(5, 30), st.integers(5, 30)),
)
def test_values_stay_in_range_and_padding_is_no_value(
    folder, modalities, size, seed, crop
):
    """Every valid pixel of the model's input lies within the valid input.

    Only a modality without a validity channel takes the corners of a rotation for real.
    """
    fill = -7.0
    for field in modalities.values():
        field['fill'] = fill
    arrays = arrays_for(modalities, size, seed)
    labels = np.zeros(size, np.uint8)
    sample = load_arrays(folder, modalities, arrays, labels)
    packed = PackXModalInputs()(run(sample, geometry(size, crop), seed))
    preprocessor = MODELS.build(
        dict(
            type='mmseg_xmodal.ModalityPreprocessor',
            modalities=modalities,
            validity=True,
            pad_val=-9,
            size_divisor=16,
        )
    )
    batch = dict(inputs=[packed['inputs']], data_samples=[packed['data_samples']])
    inputs = preprocessor(batch, training=True)['inputs']
    height, width = packed['inputs'].shape[-2:]
    layout = sample['modality_layout']
    values, validity = layout.split(inputs)
    # A uint8 stack rounds value x weight and weight (weight > 127.5 of 255) in the
    # resize and again in the rotation: (.5 + .5) * 255 / 127.5 = 2 levels each time.
    uint8 = packed['inputs'].dtype == torch.uint8
    tolerance = 4.0 if uint8 else 1e-3
    for name, array in arrays.items():
        real = array[(array != HOLE).all(-1)]
        marked = layout.stack_validity_index(name) is not None
        least = real.min() if marked else ROTATED
        valid = validity[name].bool()
        assert set(validity[name].unique().tolist()) <= {0.0, 1.0}
        assert not valid[..., height:, :].any()
        assert not valid[..., width:].any()
        inside = values[name][..., :height, :width]
        shown = valid[..., :height, :width].expand_as(inside)
        if shown.any():
            assert inside[shown].min() >= least - tolerance
            assert inside[shown].max() <= real.max() + tolerance
        assert marked or shown.all()
        assert (inside[~shown] == fill).all()
        assert (values[name][..., height:, :] == -9).all()
        assert (values[name][..., width:] == -9).all()


@pytest.mark.parametrize(
    ('fields', 'marked'),
    [
        (dict(dtype='uint8'), False),
        (dict(dtype='uint8', invalid=HOLE), True),
        (dict(dtype='uint8', may_be_missing=True), True),
        (dict(dtype='float32'), True),
    ],
)
def test_the_corners_of_a_rotation(folder, fields, marked):
    modalities = dict(x=dict(channels=1, fill=-7, **fields))
    array = np.full((16, 16, 1), 100, fields['dtype'])
    sample = load_arrays(folder, modalities, dict(x=array))
    rotate = dict(type='RandomRotate', prob=1.0, degree=(45, 45))
    packed = PackXModalInputs()(run(sample, [rotate]))
    cfg = dict(type='mmseg_xmodal.ModalityPreprocessor', modalities=modalities)
    preprocessor = MODELS.build(dict(cfg, validity=True))
    batch = dict(inputs=[packed['inputs']], data_samples=[packed['data_samples']])
    value, valid = preprocessor(batch)['inputs'][0, :, 0, 0].tolist()
    assert (value, valid) == ((-7, 0) if marked else (ROTATED, 1))


@FAST
@given(SEEDS, st.sampled_from([None, 'uint8', 'float32']))
def test_on_modalities_equals_the_stock_transform(folder, seed, other):
    """On uint8 colour, whatever else lies in the stack."""
    rng = np.random.default_rng(seed)
    colour = rng.integers(0, 256, (8, 9, 3), dtype=np.uint8)
    modalities = dict(rgb=dict(channels=3, order='rgb'))
    arrays = dict(rgb=colour)
    if other is not None:
        modalities['x'] = dict(channels=2, dtype=other, invalid=HOLE)
        arrays['x'] = rng.integers(0, 9, (8, 9, 2)).astype(other)
    stock = dict(type='PhotoMetricDistortion')
    image = np.ascontiguousarray(colour[..., ::-1])
    want = run(dict(img=image), [stock], seed)['img']
    sample = load_arrays(folder, modalities, arrays)
    rest = sample['img'][..., 3:].copy()
    got = run(sample, [OnModalities(['rgb'], [stock])], seed)['img']
    assert np.array_equal(got[..., :3], want)
    assert np.array_equal(got[..., 3:], rest)


@FAST
@given(layouts(), SIZES, SEEDS)
def test_labels_stay_integers(folder, modalities, size, seed):
    labels = np.random.default_rng(seed).choice([0, 2, 4], size).astype(np.uint8)
    arrays = arrays_for(modalities, size, seed)
    sample = load_arrays(folder, modalities, arrays, labels)
    results = run(sample, geometry(size, (12, 10)), seed)
    assert results['gt_seg_map'].dtype == np.uint8
    # 255 is what RandomRotate puts outside of the image.
    assert set(np.unique(results['gt_seg_map'])) <= {0, 2, 4, 255}
    assert results['gt_seg_map'].shape == results['img'].shape[:2]
    packed = PackXModalInputs()(results)['data_samples'].gt_sem_seg
    assert packed.data.dtype == torch.int64
