"""What the user gets for wrong channels, labels and numbers in files.

Every pattern matches the value, the place and the remedy; see test_errors.py.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmseg.registry import TRANSFORMS as MMSEG_TRANSFORMS

from mmseg_xmodal.datasets.label_reader import LabelReader
from mmseg_xmodal.datasets.transforms import (
    LoadModalities,
    PackXModalInputs,
    loading,
)
from mmseg_xmodal.registry import MODELS
from tests.errors_helpers import RGB, label_dataset, label_sample, load, write

# --------------------------------------------------------------------------------------
# Channel mismatch between file, layout, preprocessor and first convolution: which one,
# and the line to change. (First convolution: test_errors_models.py.)
# --------------------------------------------------------------------------------------


def test_channels_of_file_and_layout(tmp_path):
    path = write(tmp_path / 'a.png', np.zeros((6, 8, 3), np.uint8))
    pattern = (
        r"depth: the file '.*a\.png' has the shape \(6, 8, 3\).*says channels=1.*"
        r"modalities\['depth'\]\['channels'\]=3"
    )
    with pytest.raises(ValueError, match=pattern):
        load(dict(depth=dict(channels=1)), dict(depth=path))
    path = write(tmp_path / 'b.png', np.zeros((6, 8, 4), np.uint8))
    pattern = r"b\.png' has the shape \(6, 8, 4\).*\['rgb'\]\['bands'\]=\[0, 1, 2\]"
    with pytest.raises(ValueError, match=pattern):
        load(dict(rgb=RGB), dict(rgb=path))
    path = write(tmp_path / 'grey.png', np.zeros((6, 8), np.uint8))
    pattern = r"grey\.png' has .*\(6, 8, 1\).*\['rgb'\]\['bands'\]=\[0, 0, 0\]"
    with pytest.raises(ValueError, match=pattern):
        load(dict(rgb=RGB), dict(rgb=path))
    path = write(tmp_path / 'five.npy', np.zeros((6, 8, 5), np.uint8))
    with pytest.raises(ValueError, match=r"\['channels'\]=5 and order=None"):
        load(dict(rgb=RGB), dict(rgb=path))
    path = write(tmp_path / 'c.npy', np.zeros((5, 6, 8), np.uint8))
    with pytest.raises(ValueError, match=r'\(C, H, W\): save array\.transpose'):
        load(dict(x=dict(channels=5)), dict(x=path))


def test_type_of_file_and_layout(tmp_path):
    path = write(tmp_path / 'a.png', np.zeros((6, 8), np.uint16))
    pattern = (
        r"'.*a\.png' stores uint16, but the layout says dtype='uint8'.*"
        r"modalities\['x'\]\['dtype'\]='uint16'"
    )
    with pytest.raises(ValueError, match=pattern):
        load(dict(x=dict(channels=1, dtype='uint8')), dict(x=path))


def test_a_stock_transform_on_the_whole_stack(tmp_path):
    """PhotoMetricDistortion makes three channels of four, without a word."""
    paths = dict(
        rgb=write(tmp_path / 'a.png', np.zeros((6, 8, 3), np.uint8)),
        nir=write(tmp_path / 'nir.png', np.ones((6, 8), np.uint8)),
    )
    modalities = dict(rgb=RGB, nir=dict(channels=1, dtype='uint8'))
    distort = MMSEG_TRANSFORMS.build(dict(type='PhotoMetricDistortion'))
    pattern = (
        r"PackXModalInputs \('.*a\.png'\) got a stack of 3 uint8 channels.*makes 4 "
        r'uint8.*PhotoMetricDistortion.*Wrap it.*OnModalities.*\[.rgb.\]'
    )
    refused = 0
    for seed in range(10):
        np.random.seed(seed)  # noqa: NPY002
        sample = distort(load(modalities, paths))
        # A draw without saturation and hue touches the values only.
        if sample['img'].shape[-1] == 3:
            refused += 1
            with pytest.raises(ValueError, match=pattern):
                PackXModalInputs()(sample)
    assert refused


def test_channels_of_stack_and_preprocessor():
    modalities = dict(rgb=RGB, depth=dict(channels=1, dtype='uint8', invalid=0))
    preprocessor = MODELS.build(
        dict(type='mmseg_xmodal.ModalityPreprocessor', modalities=modalities)
    )
    pattern = (
        r'ModalityPreprocessor .* got a stack of 3 uint8 channels.*'
        r'ModalityLayout\(rgb=3, depth=1\) makes 5 uint8.*names=\[.rgb.\].*'
        r'`modalities` dicts .* give both the same'
    )
    with pytest.raises(ValueError, match=pattern):
        preprocessor(dict(inputs=[torch.zeros(3, 4, 4, dtype=torch.uint8)]))


def test_values_in_a_unit_that_became_uint8():
    """Three float channels of depth pass a stock transform by number, not by type."""
    preprocessor = MODELS.build(
        dict(
            type='mmseg_xmodal.ModalityPreprocessor',
            modalities=dict(normals=dict(channels=2)),
        )
    )
    with pytest.raises(ValueError, match=r'3 uint8 channels.*3 float32.*OnModalities'):
        preprocessor(dict(inputs=[torch.zeros(3, 4, 4, dtype=torch.uint8)]))


# --------------------------------------------------------------------------------------
# Label id outside the classes: id, file, count.
# --------------------------------------------------------------------------------------


def test_a_label_outside_the_classes(tmp_path):
    labels = np.array([[0, 1, 2], [3, 3, 255], [9, 2, 1]], np.uint8)
    pattern = (
        r"label map '.*labels/a\.png'.*3 classes \(0 to 2, ignore_index=255\): "
        r'id 3 \(2 pixels\), id 9 \(1 pixels\)\. .*metainfo\.classes.*reduce_zero_label'
    )
    with pytest.raises(ValueError, match=pattern):
        label_sample(tmp_path, labels)


@pytest.mark.parametrize('loader', ['LoadAnnotations', 'mmseg_xmodal.LoadLabels'])
@pytest.mark.parametrize('suffix', ['.png', '.tif'])
def test_a_label_beyond_8_bits(tmp_path, loader, suffix):
    """mmseg casts label maps to uint8: 256 would become 0, 258 would become 2."""
    labels = np.array([[256, 257], [258, 1]], np.uint16)
    pattern = (
        rf"label map '.*labels/a\{suffix}' stores uint16 with ids up to 258.*255.*uint8"
    )
    with pytest.raises(ValueError, match=pattern):
        label_sample(tmp_path, labels, loader, suffix)
    counts = label_dataset(tmp_path, loader, suffix)
    with pytest.raises(ValueError, match=pattern):
        LabelReader(counts).count(0)


@pytest.mark.parametrize('suffix', ['.png', '.tif'])
def test_16_bits_that_hold_small_labels_are_fine(tmp_path, suffix):
    labels = np.array([[0, 1], [2, 255]], np.uint16)
    packed = label_sample(tmp_path, labels, suffix=suffix)['data_samples']
    assert np.array_equal(packed.gt_sem_seg.data[0].numpy(), labels)


def test_the_ignored_label_is_the_configured_one(tmp_path):
    labels = np.array([[0, 1, 2], [9, 9, 9]], np.uint8)
    assert label_sample(tmp_path, labels, ignore_index=9)['inputs'].shape == (3, 2, 3)
    labels[0, 0] = 255
    with pytest.raises(ValueError, match=r'ignore_index=9\): id 255 \(1 pixels\)'):
        label_sample(tmp_path, labels, ignore_index=9)


# --------------------------------------------------------------------------------------
# NaN or inf in a float modality: invalid, counted; or an error with strict=True.
# --------------------------------------------------------------------------------------


def test_nan_and_infinity(tmp_path):
    array = np.ones((4, 5, 2), np.float32)
    array[0, 0, 0], array[1, 1, 1], array[2, 2] = np.nan, np.inf, -np.inf
    paths = dict(x=write(tmp_path / 'a.npy', array))
    modalities = dict(x=dict(channels=2))
    results = load(modalities, paths)
    assert results['nonfinite_counts'] == dict(x=3)
    validity = results['img'][..., 2]
    assert np.argwhere(validity == 0).tolist() == [[0, 0], [1, 1], [2, 2]]
    assert np.isfinite(results['img']).all()
    with pytest.raises(ValueError, match=r"x: 3 of 20 .*a\.npy'.*set strict=False"):
        load(modalities, paths, strict=True)


@pytest.mark.parametrize(
    ('value', 'dtype', 'scale'),
    [(-1.797e308, np.float64, 1.0), (3e38, np.float32, 10.0)],
)
def test_numbers_that_overflow_float32_are_invalid(tmp_path, value, dtype, scale):
    array = np.ones((2, 2), dtype)
    array[0, 1] = value
    path = write(tmp_path / 'dem.npy', array)
    modalities = dict(dem=dict(channels=1, scale=scale))
    results = load(modalities, dict(dem=path))
    assert results['nonfinite_counts'] == {'dem': 1}
    assert results['img'][0, 1].tolist() == [0, 0]
    assert np.isfinite(results['img']).all()
    with pytest.raises(ValueError, match=r'dem: 1 of 4 pixels.*strict=False'):
        load(modalities, dict(dem=path), strict=True)


def test_nan_is_reported_once(tmp_path, monkeypatch):
    array = np.full((2, 2), np.nan, np.float32)
    array[0, 0] = 1
    paths = dict(x=write(tmp_path / 'a.npy', array))
    transform = LoadModalities(dict(x=dict(channels=1)))
    messages: list[str] = []
    monkeypatch.setattr(loading, 'print_log', lambda m, **_: messages.append(m))
    for _ in range(3):
        transform(dict(modality_paths=paths))
    assert len(messages) == 1
    assert 'x: 3 of 4 pixels are NaN or infinite in' in messages[0]
    assert 'strict=True' in messages[0]
