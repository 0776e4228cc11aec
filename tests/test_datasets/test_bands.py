from __future__ import annotations

import cv2
import numpy as np
import pytest

from mmseg_xmodal.datasets.transforms import LoadModalities
from mmseg_xmodal.structures import Modality, ModalityLayout

RGBA = np.arange(4, dtype=np.uint8) * 10  # red 0, green 10, blue 20, alpha 30


def load(path, **fields) -> np.ndarray:
    loader = LoadModalities(dict(x=fields))
    return loader(dict(modality_paths=dict(x=str(path))))['img']


@pytest.fixture(params=['png', 'npy'])
def path(request, tmp_path):
    """Four channels, stored in the order red, green, blue, alpha."""
    file = tmp_path / f'a.{request.param}'
    image = np.tile(RGBA, (3, 4, 1))
    if request.param == 'npy':
        np.save(file, image)
    else:
        cv2.imwrite(str(file), image[..., [2, 1, 0, 3]])
    return file


def test_one_band(path):
    for band, value in enumerate(RGBA):
        img = load(path, channels=1, dtype='uint8', bands=[band])
        assert (img == value).all()


def test_colour_lies_as_bgr_and_others_as_asked(path):
    colour = load(path, channels=3, order='rgb', bands=[0, 1, 2])
    assert colour[0, 0].tolist() == [20, 10, 0]
    other = load(path, channels=3, dtype='uint8', bands=[3, 0, 0])
    assert other[0, 0].tolist() == [30, 0, 0]


def test_colour_from_a_grey_file_and_without_its_alpha(path):
    """The remedies that wrong channels of a colour name."""
    rgb = dict(channels=3, order='rgb')
    assert load(path, bands=[0, 1, 2], **rgb)[1, 1].tolist() == [20, 10, 0]
    grey = path.with_name(f'grey{path.suffix}')
    image = np.full((3, 4), 7, np.uint8)
    if path.suffix == '.npy':
        np.save(grey, image)
    else:
        cv2.imwrite(str(grey), image)
    assert (load(grey, bands=[0, 0, 0], **rgb) == 7).all()


def test_a_grey_image_is_repeated(tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), np.full((3, 4), 7, np.uint8))
    img = load(tmp_path / 'a.png', channels=3, dtype='uint8', bands=[0, 0, 0])
    assert (img == 7).all()
    assert img.shape == (3, 4, 3)


def test_invalid_looks_at_the_chosen_bands_only(tmp_path):
    array = np.array([[[0, 5], [4, 0]]], np.uint8)
    np.save(tmp_path / 'a.npy', array)
    img = load(tmp_path / 'a.npy', channels=1, dtype='uint8', bands=[1], invalid=0)
    assert img[0].tolist() == [[5, 255], [0, 0]]


def test_a_band_that_the_file_has_not(tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), np.zeros((3, 4, 3), np.uint8))
    with pytest.raises(ValueError, match=r'has 3 channels, but .* bands=\(3,\)'):
        load(tmp_path / 'a.png', channels=1, dtype='uint8', bands=[3])


@pytest.mark.parametrize('bands', [[0], [0, 1, -1], []])
def test_wrong_bands(bands):
    with pytest.raises(ValueError, match=r"\['bands'\] is .* 3 positions from 0"):
        ModalityLayout(dict(x=dict(channels=3, bands=bands)))


def test_all_bands_is_the_default():
    assert Modality('x', channels=4).bands is None
