"""What the user gets for bad input: one test per kind of mistake.

Every pattern matches the value, the place and the remedy. Files that are missing,
damaged or of different sizes are here. Elsewhere are

==========================================  ============================================
channels, label ids, NaN                    test_errors_values.py
first convolution, pairwise fusion,         test_errors_models.py
a batch whose labels are all ignored
a killed process (SIGKILL) and its resume   integration/test_resume.py
stock inferencer, wrong samples             test_apis/test_inference.py
==========================================  ============================================
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmseg.apis import inference_model
from PIL import Image

from mmseg_xmodal.datasets import MultiModalSegDataset
from tests.errors_helpers import RGB, label_dataset, label_sample, load, write

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
        pattern = (
            rf"x: cannot decode '.*a\{file.suffix}' as {file.suffix[1:]}: "
            r'.*(?:pickle|Python object).*Write the file again'
        )
        with pytest.raises(ValueError, match=pattern):
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
    for array, held in (
        (np.float32(3), r'float32 of the shape \(\)'),
        (np.array([['a', 'b']]), r'<U1 of the shape \(1, 2, 1\)'),
        (np.zeros((0, 4)), r'float64 of the shape \(0, 4, 1\)'),
        (np.zeros(4), r'float64 of the shape \(4,\)'),
    ):
        path = write(tmp_path / 'a.npy', array)
        pattern = rf"x: the file '.*a\.npy' holds {held}, expected numbers.*Write the"
        with pytest.raises(ValueError, match=pattern):
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
