"""TIFF files that OpenCV does not give as they are stored."""

from __future__ import annotations

import io
import struct
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from mmseg_xmodal.datasets.transforms import LoadModalities

RNG = np.random.default_rng(0)
U8 = RNG.integers(0, 256, (6, 8), dtype=np.uint8)
U16 = RNG.integers(0, 65536, (6, 8), dtype=np.uint16)
I8 = RNG.integers(-128, 128, (6, 8), dtype=np.int8)
F32 = RNG.normal(size=(6, 8)).astype(np.float32)


class _FakeTifffile:
    """Stands for the tifffile module: planar files come as (C, H, W)."""

    class TiffFile:
        def __init__(self, file):
            self.data = file.read()
            self.pages = [self]

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return False

        def asarray(self):
            with Image.open(io.BytesIO(self.data)) as image:
                return np.asarray(image)


def test_a_tif_that_opencv_decodes_wrongly_goes_to_tifffile(tmp_path, monkeypatch):
    """OpenCV multiplies 8 bit colours by an unassociated alpha."""
    array = RNG.integers(0, 256, (6, 8, 4), dtype=np.uint8)
    path = str(tmp_path / 'a.tif')
    Image.fromarray(array).save(path)
    wrong = cv2.imread(path, cv2.IMREAD_UNCHANGED)
    assert not np.array_equal(wrong[..., [2, 1, 0, 3]], array)
    monkeypatch.setitem(sys.modules, 'tifffile', _FakeTifffile)
    transform = LoadModalities(dict(x=dict(channels=4, dtype='uint8')))
    img = transform(dict(modality_paths=dict(x=path)))['img']
    assert np.array_equal(img, array)


def write_tif(path, array, bits, photometric, kind) -> str:
    """A TIFF of one strip and one sample per pixel, as TIFF 6.0 has it."""
    height, width = array.shape
    data = np.packbits(array, axis=-1) if bits == 1 else array
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric}
    tags |= {273: 8, 277: 1, 278: height, 279: data.nbytes, 339: kind}
    entries = [struct.pack('<HHLL', tag, 4, 1, value) for tag, value in tags.items()]
    head = struct.pack('<2sHL', b'II', 42, 8 + data.nbytes)
    table = struct.pack('<H', len(tags)) + b''.join(entries) + bytes(4)
    path.write_bytes(head + data.tobytes() + table)
    return str(path)


HIDDEN = [
    pytest.param(U8, 8, 0, 1, id='white is 0'),
    pytest.param(I8, 8, 0, 2, id='white is 0, signed'),
    pytest.param(U8 > 99, 1, 1, 1, id='1 bit'),
    pytest.param(F32.astype(np.float16), 16, 1, 3, id='float16'),
]


@pytest.mark.parametrize(('array', 'bits', 'photometric', 'kind'), HIDDEN)
def test_a_tif_of_one_band_that_opencv_does_not_give_as_stored(
    tmp_path, monkeypatch, array, bits, photometric, kind
):
    path = write_tif(tmp_path / 'a.tif', array, bits, photometric, kind)
    transform = LoadModalities(dict(x=dict(channels=1)))
    monkeypatch.setitem(sys.modules, 'tifffile', None)
    pattern = rf"a\.tif' is a tif .*1 samples of {bits} bits.*pip install tifffile"
    with pytest.raises(ImportError, match=pattern):
        transform(dict(modality_paths=dict(x=path)))


def test_a_planar_tag_on_one_band_changes_nothing(tmp_path, monkeypatch):
    path = tmp_path / 'a.tif'
    Image.fromarray(U8 > 99).save(path, tiffinfo={284: 2})
    monkeypatch.setitem(sys.modules, 'tifffile', _FakeTifffile)
    transform = LoadModalities(dict(x=dict(channels=1)))
    img = transform(dict(modality_paths=dict(x=str(path))))['img']
    assert np.array_equal(img[..., 0], U8 > 99)


@pytest.mark.parametrize(('array', 'bits', 'photometric', 'kind'), HIDDEN)
def test_tifffile_gives_it_as_stored(tmp_path, array, bits, photometric, kind):
    pytest.importorskip('tifffile', reason='tifffile is not installed')
    path = write_tif(tmp_path / 'a.tif', array, bits, photometric, kind)
    transform = LoadModalities(dict(x=dict(channels=1)))
    img = transform(dict(modality_paths=dict(x=path)))['img']
    assert np.array_equal(img[..., 0], array.astype(np.float32))


@pytest.mark.parametrize('photometric', [0, 1])
@pytest.mark.parametrize(('array', 'bits', 'kind'), [(U16, 16, 1), (F32, 32, 3)])
def test_a_wide_tif_of_one_band_needs_no_tifffile(
    tmp_path, monkeypatch, array, bits, kind, photometric
):
    monkeypatch.setitem(sys.modules, 'tifffile', None)
    path = write_tif(tmp_path / 'a.tif', array, bits, photometric, kind)
    transform = LoadModalities(dict(x=dict(channels=1)))
    img = transform(dict(modality_paths=dict(x=path)))['img']
    assert np.array_equal(img[..., 0], array.astype(np.float32))
