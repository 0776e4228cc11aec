"""What the user gets for bad input: one test per kind of mistake.

Every pattern matches the value, the place and the remedy.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmseg.apis import inference_model
from mmseg.registry import TRANSFORMS as MMSEG_TRANSFORMS
from PIL import Image

from mmseg_xmodal.datasets import MultiModalSegDataset
from mmseg_xmodal.datasets.transforms import (
    LoadModalities,
    PackXModalInputs,
    loading,
)
from mmseg_xmodal.registry import MODELS

RGB = dict(channels=3, order='rgb')


def write(path: Path, array: np.ndarray) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == '.npy':
        np.save(path, array)
    else:
        assert cv2.imwrite(str(path), array)
    return str(path)


def load(modalities: dict, paths: dict[str, str | None], **kwargs: Any) -> dict:
    sample = dict(modality_paths=paths, img_path=paths.get('rgb'))
    return LoadModalities(modalities, **kwargs)(sample)


def label_dataset(root: Path, **kwargs: Any) -> MultiModalSegDataset:
    return MultiModalSegDataset(
        modalities=dict(rgb=RGB),
        data_root=str(root),
        data_prefix=dict(rgb='rgb', seg_map_path='labels'),
        metainfo=dict(classes=('a', 'b', 'c')),
        pipeline=[
            dict(type='mmseg_xmodal.LoadModalities', modalities=dict(rgb=RGB)),
            dict(type='LoadAnnotations'),
            dict(type='mmseg_xmodal.PackXModalInputs'),
        ],
        **kwargs,
    )


def label_sample(root: Path, labels: np.ndarray, **kwargs: Any) -> dict:
    write(root / 'rgb/a.png', np.zeros((*labels.shape, 3), np.uint8))
    write(root / 'labels/a.png', labels)
    return label_dataset(root, **kwargs)[0]


# --------------------------------------------------------------------------------------
# Missing or unpaired files: all listed in one error, first 20 shown with counts.
# --------------------------------------------------------------------------------------


def test_missing_files(tmp_path):
    for i in range(40):
        image = np.zeros((2, 2), np.uint8)
        if i >= 3:
            write(tmp_path / f'rgb/{i:03d}.png', image)
        if i < 20:
            write(tmp_path / f'depth/{i:03d}.png', image)
        if i != 7:
            write(tmp_path / f'labels/{i:03d}.png', image)
    with pytest.raises(FileNotFoundError) as error:
        MultiModalSegDataset(
            modalities=dict(rgb=RGB, depth=dict(channels=1)),
            data_root=str(tmp_path),
            data_prefix=dict(rgb='rgb', depth='depth', seg_map_path='labels'),
        )
    message = str(error.value)
    assert '24 files are missing for 40 samples' in message
    assert 'rgb 3, depth 20, seg_map_path 1' in message
    assert f'rgb: 37 files *.png in {tmp_path}/rgb' in message
    assert 'first 20 of 24' in message
    shown = [line for line in message.splitlines() if line.endswith('.png')]
    assert len(shown) == 20
    assert shown[0].strip() == f'{tmp_path}/depth/020.png'
    for remedy in ('data_prefix', 'suffixes', 'ann_file', 'may_be_missing'):
        assert remedy in message


def test_a_folder_that_does_not_exist_and_a_wrong_suffix(tmp_path):
    write(tmp_path / 'rgb/000.jpg', np.zeros((2, 2), np.uint8))
    with pytest.raises(FileNotFoundError) as error:
        MultiModalSegDataset(
            modalities=dict(rgb=RGB, depth=dict(channels=1)),
            data_root=str(tmp_path),
            data_prefix=dict(rgb='rgb', depth='nowhere'),
        )
    message = str(error.value)
    assert 'No sample was found' in message
    assert f"rgb: 0 files *.png in {tmp_path}/rgb (suffixes there: ['.jpg'])" in message
    assert f'{tmp_path}/nowhere (this folder does not exist)' in message
    assert 'Correct data_root, data_prefix or suffixes' in message


def test_an_ann_file_that_does_not_exist(tmp_path):
    write(tmp_path / 'rgb/000.png', np.zeros((2, 2), np.uint8))
    with pytest.raises(FileNotFoundError, match=r'no\.txt.*Correct ann_file'):
        MultiModalSegDataset(
            modalities=dict(rgb=RGB),
            data_root=str(tmp_path),
            data_prefix=dict(rgb='rgb'),
            ann_file='no.txt',
        )


def test_a_sample_without_a_required_modality(tmp_path):
    path = write(tmp_path / 'a.png', np.zeros((2, 2, 3), np.uint8))
    pattern = r"depth: this sample has no file.*\['depth'\]\['may_be_missing'\]=True"
    with pytest.raises(FileNotFoundError, match=pattern):
        load(dict(rgb=RGB, depth=dict(channels=1)), dict(rgb=path, depth=None))
    with pytest.raises(
        FileNotFoundError, match=r"rgb: 'gone\.png' does not exist.*Add"
    ):
        load(dict(rgb=RGB), dict(rgb='gone.png'))
    with pytest.raises(
        FileNotFoundError, match=r"rgb: 'gone\.npy' does not exist.*Add"
    ):
        load(dict(rgb=RGB), dict(rgb='gone.npy'))


def test_a_sample_without_any_modality():
    with pytest.raises(ValueError, match=r"Every modality.*\['rgb'\].*ann_file"):
        load(dict(rgb=dict(RGB, may_be_missing=True)), dict(rgb=None))


# --------------------------------------------------------------------------------------
# Corrupt image: path and what could not be decoded.
# --------------------------------------------------------------------------------------

IMAGE = np.random.default_rng(0).integers(0, 256, (32, 40, 3), dtype=np.uint8)


@pytest.mark.parametrize('suffix', ['.png', '.jpg', '.tif', '.npy'])
@pytest.mark.parametrize('part', [0.0, 0.3, 0.9])
def test_a_file_that_was_cut_off(tmp_path, suffix, part):
    path = write(tmp_path / f'a{suffix}', IMAGE)
    data = Path(path).read_bytes()
    Path(path).write_bytes(data[: int(len(data) * part)])
    pattern = rf"rgb: cannot decode '.*a\{suffix}' as {suffix[1:]}: .*Write the file"
    with pytest.raises(ValueError, match=pattern):
        load(dict(rgb=RGB), dict(rgb=path))


def test_a_jpg_that_was_cut_off_with_an_opencv_that_decodes_it(tmp_path, monkeypatch):
    """Before version 5, OpenCV gives an image that is grey from there on."""
    path = Path(write(tmp_path / 'a.jpg', IMAGE))
    monkeypatch.setattr(cv2, 'imdecode', lambda *_: IMAGE.copy())
    assert np.array_equal(load(dict(rgb=RGB), dict(rgb=str(path)))['img'], IMAGE)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"a\.jpg' as jpg: it is cut off.*Write the"):
        load(dict(rgb=RGB), dict(rgb=str(path)))


@pytest.mark.parametrize('part', [0.0, 0.3, 0.9])
def test_labels_that_were_cut_off(tmp_path, part):
    labels = np.random.default_rng(0).integers(0, 3, (32, 40), dtype=np.uint8)
    assert label_sample(tmp_path, labels)['inputs'].shape == (3, 32, 40)
    path = tmp_path / 'labels/a.png'
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    pattern = r"rgb/a\.png' cannot be decoded.*labels '.*labels/a\.png'.*Write the file"
    with pytest.raises(ValueError, match=pattern):
        label_dataset(tmp_path)[0]


def test_a_file_of_another_kind(tmp_path):
    for suffix in ('.png', '.npz', '.npy'):
        path = tmp_path / f'a{suffix}'
        path.write_bytes(b'<html>404: not found</html>')
        with pytest.raises(ValueError, match=rf"cannot decode '.*a\{suffix}'.*again"):
            load(dict(rgb=RGB), dict(rgb=str(path)))
    text = tmp_path / 'a.txt'
    text.write_text('hello')
    with pytest.raises(ValueError, match=r"a\.txt'.*suffix '\.txt'.*Convert"):
        load(dict(rgb=RGB), dict(rgb=str(text)))


def test_pickled_arrays_are_never_opened(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ('the pickle was opened',))

    path = tmp_path / 'a.npy'
    np.save(path, np.array([[Trap()]], dtype=object), allow_pickle=True)
    archive = tmp_path / 'a.npz'
    np.savez(archive, np.array([[Trap()]], dtype=object))
    for file in (path, archive):
        with pytest.raises(
            ValueError, match=r"cannot decode '.*a\.np[yz]'.*pickle|Pyth"
        ):
            load(dict(x=dict(channels=1)), dict(x=str(file)))


def test_an_npz_with_several_arrays(tmp_path):
    path = str(tmp_path / 'a.npz')
    np.savez(path, near=IMAGE, far=IMAGE)
    pattern = r"a\.npz' holds the arrays \['near', 'far'\].*npz_keys=dict\(rgb='near'\)"
    with pytest.raises(ValueError, match=pattern):
        load(dict(rgb=RGB), dict(rgb=path))


def test_exr_without_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'OpenEXR', None)
    path = tmp_path / 'a.exr'
    path.write_bytes(b'any')
    with pytest.raises(ImportError, match=r'a\.exr.*pip install .mmseg_xmodal\[exr\]'):
        load(dict(x=dict(channels=1)), dict(x=str(path)))


def test_a_tif_that_opencv_decodes_wrongly_without_tifffile(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'tifffile', None)
    path = str(tmp_path / 'a.tif')
    Image.fromarray(np.zeros((6, 8, 4), np.uint8)).save(path)
    pattern = r"x: '.*a\.tif' is a tif of 4 samples .*pip install tifffile.*\.npy"
    with pytest.raises(ImportError, match=pattern):
        load(dict(x=dict(channels=4, dtype='uint8')), dict(x=path))


def test_something_else_than_an_image(tmp_path):
    for array in (np.float32(3), np.array([['a', 'b']]), np.zeros((0, 4)), np.zeros(4)):
        path = write(tmp_path / 'a.npy', array)
        with pytest.raises(
            ValueError, match=r"a\.npy' holds .*expected numbers.*Write"
        ):
            load(dict(x=dict(channels=1)), dict(x=path))


# --------------------------------------------------------------------------------------
# Sizes that differ between modalities: both sizes, both paths, the option that resizes.
# --------------------------------------------------------------------------------------


def test_sizes_that_differ(tmp_path):
    paths = dict(
        rgb=write(tmp_path / 'rgb.png', np.zeros((6, 8, 3), np.uint8)),
        depth=write(tmp_path / 'depth.npy', np.zeros((3, 4), np.float32)),
    )
    modalities = dict(rgb=RGB, depth=dict(channels=1))
    pattern = (
        r"rgb is 6 x 8 .*rgb\.png', depth is 3 x 4 in '.*depth\.npy'.*resize_to='rgb'"
    )
    with pytest.raises(ValueError, match=pattern):
        load(modalities, paths)
    assert load(modalities, paths, resize_to='rgb')['img'].shape == (6, 8, 5)


# --------------------------------------------------------------------------------------
# Channel mismatch between file, layout, preprocessor and first convolution: which one,
# and the line to change. (First convolution: with the backbones below.)
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
    with pytest.raises(ValueError, match=r"\['channels'\]=4 and order=None"):
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


# --------------------------------------------------------------------------------------
# Stock inferencer on a multi-modal config: says what to use. (`inference_model` here.)
# --------------------------------------------------------------------------------------


def test_stock_inference_model(modalities):
    class Model(torch.nn.Module):
        class cfg:
            test_pipeline = [
                dict(type='mmseg_xmodal.LoadModalities', modalities=modalities),
                dict(type='mmseg_xmodal.PackXModalInputs'),
            ]

    pattern = (
        r"without 'modality_paths'.*photo\.png.*\['rgb', 'depth'\].*"
        r'mmseg_xmodal\.apis\.XModalInferencer or inference_xmodal'
    )
    with pytest.raises(ValueError, match=pattern):
        inference_model(Model(), 'photo.png')
