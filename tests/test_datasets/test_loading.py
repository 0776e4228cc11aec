from __future__ import annotations

import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from mmseg_xmodal.datasets.transforms import LoadModalities

from .helpers import load_arrays

RGB = dict(channels=3, order='rgb')
RNG = np.random.default_rng(0)
U8 = RNG.integers(0, 256, (6, 8), dtype=np.uint8)
U16 = RNG.integers(0, 65536, (6, 8), dtype=np.uint16)
I16 = RNG.integers(-3000, 3000, (6, 8), dtype=np.int16)
F32 = RNG.normal(size=(6, 8)).astype(np.float32)
COLOUR = RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8)


def load(tmp_path, modality, suffix, array, **kwargs):
    path = str(tmp_path / f'a{suffix}')
    if suffix == '.npy':
        np.save(path, array)
    elif suffix == '.npz':
        np.savez(path, array)
    else:
        assert cv2.imwrite(path, array)
    transform = LoadModalities(dict(x=modality), **kwargs)
    return transform(dict(modality_paths=dict(x=path), img_path=path))


@pytest.mark.parametrize(
    ('suffix', 'dtype', 'array'),
    [
        ('.png', 'uint8', U8),
        ('.png', 'uint16', U16),
        ('.tif', 'uint8', U8),
        ('.tif', 'uint16', U16),
        ('.tif', 'int16', I16),
        ('.tif', 'float32', F32),
        ('.npy', 'uint8', U8),
        ('.npy', 'uint16', U16),
        ('.npy', 'int16', I16),
        ('.npy', 'float32', F32),
        ('.npz', 'int16', I16),
    ],
)
def test_formats_keep_the_stored_values(tmp_path, suffix, dtype, array):
    results = load(tmp_path, dict(channels=1, dtype=dtype), suffix, array)
    assert np.array_equal(results['img'][..., 0], array.astype(results['img'].dtype))
    assert results['img_shape'] == results['ori_shape'] == (6, 8)
    assert results['img'].flags.c_contiguous


def test_wide_files_fit_the_default_type(tmp_path):
    """A modality without dtype is float32, whatever number type the file has."""
    for array in (U16, F32.astype(np.float64), F32.astype(np.float16), U8 > 9):
        results = load(tmp_path, dict(channels=1), '.npy', array)
        np.testing.assert_array_equal(results['img'][..., 0], array.astype(np.float32))


def test_jpg_decodes_as_opencv_does(tmp_path):
    results = load(tmp_path, RGB, '.jpg', COLOUR)
    assert np.array_equal(results['img'], cv2.imread(str(tmp_path / 'a.jpg')))


def test_colour_lies_as_bgr_whatever_the_file(tmp_path):
    """Images decode to BGR; arrays hold RGB and are turned round."""
    from_png = load(tmp_path, RGB, '.png', COLOUR[..., ::-1])
    from_npy = load(tmp_path, RGB, '.npy', COLOUR)
    assert np.array_equal(from_png['img'], COLOUR[..., ::-1])
    assert np.array_equal(from_npy['img'], COLOUR[..., ::-1])
    plain = load(tmp_path, dict(channels=3, dtype='uint8'), '.npy', COLOUR)
    assert np.array_equal(plain['img'], COLOUR)


@pytest.mark.parametrize('suffix', ['.png', '.tif'])
@pytest.mark.parametrize('channels', [3, 4])
def test_what_is_no_colour_keeps_the_order_of_the_file(tmp_path, suffix, channels):
    """OpenCV decodes three and four channels as BGR and BGRA."""
    array = RNG.integers(0, 256, (6, 8, channels), dtype=np.uint8)
    path = str(tmp_path / f'a{suffix}')
    if suffix == '.tif':
        assert cv2.imwrite(path, array[..., [2, 1, 0, 3][:channels]])
    else:
        Image.fromarray(array).save(path)
    transform = LoadModalities(dict(x=dict(channels=channels, dtype='uint8')))
    img = transform(dict(modality_paths=dict(x=path)))['img']
    assert np.array_equal(img, array)


def test_uint8_stack_with_validity(tmp_path):
    depth = U8.copy()
    depth[0, :3] = 0
    modalities = dict(rgb=RGB, depth=dict(channels=1, dtype='uint8', invalid=0))
    results = load_arrays(tmp_path, modalities, dict(rgb=COLOUR, depth=depth))
    assert results['img'].dtype == np.uint8
    assert results['img'].shape == (6, 8, 5)
    assert np.array_equal(results['img'][..., 3], depth)
    assert np.array_equal(results['img'][..., 4], np.where(depth > 0, 255, 0))
    assert results['modality_layout'].stack_channels == 5


def test_float_stack_in_units(tmp_path):
    depth = U16.copy()
    depth[2, 3] = 0
    field = dict(channels=1, dtype='uint16', invalid=0, scale=0.001, offset=-0.5)
    results = load_arrays(
        tmp_path, dict(rgb=RGB, depth=field), dict(rgb=COLOUR, depth=depth)
    )
    img = results['img']
    assert img.dtype == np.float32
    assert np.array_equal(img[..., :3], COLOUR[..., ::-1].astype(np.float32))
    valid = depth > 0
    want = np.where(valid, depth * np.float32(0.001) - np.float32(0.5), 0)
    np.testing.assert_allclose(img[..., 3], want, rtol=1e-6)
    assert np.array_equal(img[..., 4], valid.astype(np.float32))


def test_invalid_in_any_channel_or_all_of_a_colour(tmp_path):
    array = np.full((2, 3, 3), 7, np.uint8)
    array[0, 0, 1] = 0
    array[1, 1] = 0
    bands = dict(channels=3, dtype='uint8', invalid=0)
    validity = load_arrays(tmp_path, dict(x=bands), dict(x=array))['img'][..., 3]
    assert (validity == 0).sum() == 2
    results = load_arrays(tmp_path, dict(x=dict(RGB, invalid=0)), dict(x=array))
    assert np.argwhere(results['img'][..., 3] == 0).tolist() == [[1, 1]]


def test_invalid_value_of_a_float_file(tmp_path):
    nodata = float(np.finfo(np.float32).min)
    array = F32.copy()
    array[1, 2], array[3, 3] = nodata, np.nan
    results = load_arrays(
        tmp_path, dict(dem=dict(channels=1, invalid=nodata)), dict(dem=array)
    )
    value, valid = results['img'][..., 0], results['img'][..., 1]
    assert np.argwhere(valid == 0).tolist() == [[1, 2], [3, 3]]
    assert np.isfinite(value).all()
    assert (value[valid == 0] == 0).all()
    assert results['nonfinite_counts'] == dict(dem=1)


def test_nan_as_the_declared_invalid_value_is_expected(tmp_path):
    array = F32.copy()
    array[1, 2] = np.nan
    fields = dict(x=dict(channels=1, invalid=float('nan')))
    results = load_arrays(tmp_path, fields, dict(x=array), strict=True)
    assert results['nonfinite_counts'] == dict(x=0)
    assert np.argwhere(results['img'][..., 1] == 0).tolist() == [[1, 2]]


def test_missing_modality_is_zero_values_and_zero_validity(tmp_path):
    modalities = dict(rgb=RGB, depth=dict(channels=2, may_be_missing=True))
    results = load_arrays(tmp_path, modalities, dict(rgb=COLOUR, depth=None))
    assert results['img'].shape == (6, 8, 6)
    assert (results['img'][..., 3:] == 0).all()


def test_resize_to_never_mixes_invalid_values(tmp_path):
    depth = np.full((3, 4), 1000, np.uint16)
    depth[1, 1] = 0
    modalities = dict(rgb=RGB, depth=dict(channels=1, dtype='uint16', invalid=0))
    results = load_arrays(
        tmp_path, modalities, dict(rgb=COLOUR, depth=depth), resize_to='rgb'
    )
    assert results['ori_shape'] == (6, 8)
    value, valid = results['img'][..., 3], results['img'][..., 4]
    assert ((valid > 0) & (valid < 1)).any()
    np.testing.assert_allclose(value, valid * 1000, rtol=1e-5)


def test_resize_to_in_a_uint8_stack(tmp_path):
    thermal = np.full((3, 4), 200, np.uint8)
    modalities = dict(rgb=RGB, thermal=dict(channels=1, dtype='uint8'))
    results = load_arrays(
        tmp_path, modalities, dict(rgb=COLOUR, thermal=thermal), resize_to='rgb'
    )
    assert results['img'].dtype == np.uint8
    assert (results['img'][..., 3] == 200).all()
    shrunk = load_arrays(
        tmp_path, modalities, dict(rgb=COLOUR, thermal=thermal), resize_to='thermal'
    )
    assert shrunk['ori_shape'] == (3, 4)


def test_npz_by_key(tmp_path):
    path = str(tmp_path / 'a.npz')
    np.savez(path, x=U8, other=U16)
    paths = dict(modality_paths=dict(x=path))
    by_name = LoadModalities(dict(x=dict(channels=1, dtype='uint8')))(dict(paths))
    assert np.array_equal(by_name['img'][..., 0], U8)
    other = LoadModalities(
        dict(x=dict(channels=1, dtype='uint16')), npz_keys=dict(x='other')
    )(dict(paths))
    assert np.array_equal(other['img'][..., 0], U16.astype(np.float32))


def test_backend_args_read_the_same(tmp_path):
    np.save(tmp_path / 'a.npy', F32)
    cv2.imwrite(str(tmp_path / 'a.png'), COLOUR)
    paths = dict(x=str(tmp_path / 'a.npy'), rgb=str(tmp_path / 'a.png'))
    modalities = dict(rgb=RGB, x=dict(channels=1))
    plain = LoadModalities(modalities)(dict(modality_paths=paths))['img']
    backend = LoadModalities(modalities, backend_args=dict(backend='local'))
    assert np.array_equal(backend(dict(modality_paths=paths))['img'], plain)


def test_arrays_in_place_of_files():
    modalities = dict(
        rgb=RGB,
        normals=dict(channels=3, dtype='uint8'),
        x=dict(channels=1, dtype='uint8', invalid=0),
    )
    arrays = dict(rgb=COLOUR, normals=COLOUR // 2, x=U8)
    img = LoadModalities(modalities)(dict(modality_paths=arrays))['img']
    assert np.array_equal(img[..., :3], COLOUR)
    assert np.array_equal(img[..., 3:6], COLOUR // 2)
    assert np.array_equal(img[..., 7], np.where(U8 > 0, 255, 0))


class _FakeExr:
    """Stands for the OpenEXR module: one grouped and one single channel."""

    class File:
        def __init__(self, path):
            self.path = path

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return False

        def channels(self):
            class Channel:
                def __init__(self, pixels):
                    self.pixels = pixels

            return dict(RGB=Channel(COLOUR / np.float32(255)), Z=Channel(F32))


def test_exr_joins_its_channels(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'OpenEXR', _FakeExr)
    path = tmp_path / 'a.exr'
    path.write_bytes(b'any')
    transform = LoadModalities(dict(x=dict(channels=4)))
    img = transform(dict(modality_paths=dict(x=str(path))))['img']
    np.testing.assert_array_equal(img[..., 3], F32)


def test_exr_file(tmp_path):
    exr = pytest.importorskip('OpenEXR', reason='the extra [exr] is not installed')
    path = str(tmp_path / 'a.exr')
    header = dict(compression=exr.ZIP_COMPRESSION, type=exr.scanlineimage)
    exr.File(header, dict(Z=F32)).write(path)
    transform = LoadModalities(dict(x=dict(channels=1)))
    img = transform(dict(modality_paths=dict(x=path)))['img']
    np.testing.assert_array_equal(img[..., 0], F32)
