"""Specifications of targets, reading their files, and packing them."""

from __future__ import annotations

import re

import cv2
import numpy as np
import pytest
from PIL import Image

from mmseg_xmodal.datasets.transforms import LoadTargets, PackXModalInputs
from mmseg_xmodal.datasets.transforms.target_specs import build_specs
from mmseg_xmodal.datasets.transforms.targets import read_target

from .helpers import run
from .multitask_samples import TARGETS, unit_vectors

NAN = np.nan


def spec(kind, name='t', **fields):
    return build_specs({name: dict(kind=kind, **fields)})[name]


def png(path, array):
    array = np.asarray(array)
    if array.ndim == 3:
        array = array[..., ::-1]
    assert cv2.imwrite(str(path), array)
    return str(path)


def npy(path, array):
    np.save(path, array)
    return str(path)


@pytest.mark.parametrize(
    ('targets', 'pattern'),
    [
        (dict(d=dict(kind='flow')), "'d'.*kind='flow'.*'depth'"),
        (dict(d=dict(folder='depth')), 'kind=None'),
        (dict(d=dict(kind='depth', threshold=1)), r"fields \['threshold'\].*'scale'"),
        (dict(d=dict(kind='normal', scale=2)), r"fields \['scale'\]"),
        (dict(a=dict(kind='depth'), b=dict(kind='depth')), "'a' and 'b'.*kind value"),
        (dict(seg=dict(kind='label')), "name 'seg'"),
        (dict(sem_seg=dict(kind='label')), "name 'sem_seg'"),
        (dict(depth_map=dict(kind='value')), "name 'depth_map'"),
        ({'a b': dict(kind='label')}, "name 'a b'"),
        (dict(n=dict(kind='normal', signs=(1, 2, 1))), 'signs.*three of 1 and -1'),
        (dict(n=dict(kind='normal', signs=(1, 1))), 'signs'),
        (dict(b=dict(kind='boxes', classes=['a'])), 'ann_file.*a JSON'),
        (dict(b=dict(kind='boxes', ann_file='b.json')), 'classes.*class names'),
        (dict(b=dict(kind='boxes', ann_file='b.json', classes='car')), 'a list'),
        (
            dict(b=dict(kind='boxes', ann_file='b', classes=['a', 'a'])),
            'each name once',
        ),
        (
            dict(b=dict(kind='boxes', ann_file='b', classes=['a'], bad_boxes='x')),
            "bad_boxes.*'error' or 'drop'",
        ),
        (
            dict(
                c=dict(
                    kind='image_labels',
                    ann_file='c',
                    classes=['a'],
                    from_boxes='type',
                    multi_label=False,
                )
            ),
            'multi_label.*from_boxes',
        ),
    ],
)
def test_wrong_specifications(targets, pattern):
    with pytest.raises(ValueError, match=pattern):
        build_specs(targets)


def test_keys_of_the_sample():
    keys = {name: s.key for name, s in build_specs(TARGETS).items()}
    assert keys == dict(
        depth='gt_depth_map',
        normal='gt_normal_map',
        edge='gt_edge_map',
        landcover='gt_landcover',
        elevation='gt_elevation',
        det='gt_bboxes',
        cls='gt_img_label',
    )
    assert spec('label', classes=7).num_classes == 7
    assert spec('label', classes=['a', 'b']).num_classes == 2


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_depth_png(tmp_path, dtype):
    path = png(tmp_path / 'd.png', np.array([[0, 1, 100], [255, 3, 4]], dtype))
    depth = read_target(path, spec('depth', scale=0.5, offset=1, invalid=0))
    assert depth.dtype == np.float32
    np.testing.assert_array_equal(depth, [[NAN, 1.5, 51], [128.5, 2.5, 3]])


@pytest.mark.parametrize('kind', ['depth', 'value'])
def test_float_files(tmp_path, kind):
    """Not finite, too large for float32, invalid, and what no distance can be."""
    stored = np.array([[1.5, NAN, np.inf, 1e300, -9999, 0, -2.0]])
    path = npy(tmp_path / 'd.npy', stored)
    got = read_target(path, spec(kind, invalid=-9999))
    rest = [NAN, NAN] if kind == 'depth' else [0, -2]
    np.testing.assert_array_equal(got, [[1.5, NAN, NAN, NAN, NAN, *rest]])


def test_npz_and_several_channels(tmp_path):
    path = str(tmp_path / 'd.npz')
    np.savez(path, a=np.ones((2, 3, 2)) * [1, 2], b=np.ones(3))
    got = read_target(path, spec('value', npz_key='a', channel=1))
    assert (got == 2).all()
    with pytest.raises(ValueError, match=r'2 channels.*\[.channel.\] \(is None\)'):
        read_target(path, spec('value', npz_key='a'))
    with pytest.raises(ValueError, match=r"'t'.*npz_key"):
        read_target(path, spec('value'))
    colour = png(tmp_path / 'c.png', np.full((2, 3, 3), (1, 2, 3), np.uint8))
    assert (read_target(colour, spec('value', channel=0)) == 1).all()


def test_normals_from_images(tmp_path):
    """Red is x, green y, blue z; 128 is nearly zero."""
    vectors = unit_vectors(np.random.default_rng(0), (5, 6))
    for top in (255, 65535):
        stored = np.rint((vectors + 1) / 2 * top).astype(
            f'uint{8 if top == 255 else 16}'
        )
        path = png(tmp_path / 'n.png', stored)
        got = read_target(path, spec('normal'))
        np.testing.assert_allclose(got, vectors, atol=1.5 / top)
        np.testing.assert_allclose(np.linalg.norm(got, axis=-1), 1, atol=1e-6)
    stored[0, 0], stored[1, 1] = 0, 32768
    path = png(tmp_path / 'n.png', stored)
    got = read_target(path, spec('normal', invalid=0, signs=(1, -1, -1)))
    assert np.isnan(got[0, 0]).all(), 'marked by a value'
    assert np.isnan(got[1, 1]).all(), 'no direction'
    np.testing.assert_allclose(got[2], vectors[2] * [1, -1, -1], atol=1e-4)


def test_normals_from_arrays(tmp_path):
    stored = np.array([[[0, 0, 2.0], [0, 0, 0], [NAN, 0, 1]]])
    got = read_target(npy(tmp_path / 'n.npy', stored), spec('normal'))
    np.testing.assert_array_equal(got, [[[0, 0, 1], [NAN] * 3, [NAN] * 3]])
    with pytest.raises(ValueError, match=r'\(4, 4\).*\(height, width, 3\)'):
        read_target(npy(tmp_path / 'n.npy', np.ones((4, 4))), spec('normal'))


def test_edges(tmp_path):
    path = png(tmp_path / 'e.png', np.array([[0, 1, 255, 60]], np.uint8))
    got = read_target(path, spec('edge'))
    assert got.dtype == np.uint8
    assert got.tolist() == [[0, 1, 1, 1]]
    assert read_target(path, spec('edge', threshold=59, invalid=255)).tolist() == [
        [0, 0, 255, 1]
    ]
    soft = npy(tmp_path / 'e.npy', np.array([[0.2, 0.7, NAN]]))
    assert read_target(soft, spec('edge', threshold=0.5)).tolist() == [[0, 1, 255]]


def test_labels_from_palette_and_one_bit_images(tmp_path):
    ids = np.array([[0, 1, 2, 255]], np.uint8)
    palette = Image.fromarray(ids, 'P')
    palette.putpalette([*range(0, 250, 10)] * 30 + [7] * 18)
    palette.save(tmp_path / 'p.png')
    got = read_target(str(tmp_path / 'p.png'), spec('label'))
    assert got.tolist() == ids.tolist()
    Image.fromarray(np.array([[True, False]])).save(tmp_path / 'b.png')
    got = read_target(str(tmp_path / 'b.png'), spec('label'))
    assert got.tolist() == [[1, 0]]


def test_labels_from_arrays(tmp_path):
    path = npy(tmp_path / 'l.npy', np.array([[0.0, 3, NAN, -1]]))
    got = read_target(path, spec('label', invalid=-1, reduce_zero_label=True))
    assert got.dtype == np.uint8
    assert got.tolist() == [[255, 2, 255, 255]]
    for wrong in (-1, 300, 1.5):
        path = npy(tmp_path / 'l.npy', np.array([[0, wrong]]))
        with pytest.raises(ValueError, match=rf"l\.npy.*\[{wrong}.*'invalid'"):
            read_target(path, spec('label'))


@pytest.mark.parametrize('kind', ['depth', 'label'])
def test_damaged_and_missing_files(tmp_path, kind):
    (tmp_path / 'x.png').write_bytes(b'\x89PNG\r\n\x1a\nrest')
    with pytest.raises(ValueError, match=r'x\.png.*again'):
        read_target(str(tmp_path / 'x.png'), spec(kind))
    with pytest.raises(FileNotFoundError, match=r'y\.png'):
        read_target(str(tmp_path / 'y.png'), spec(kind))
    with pytest.raises(ValueError, match=r'int.*\(0, 3\).*Write the file'):
        read_target(npy(tmp_path / 'z.npy', np.zeros((0, 3), int)), spec(kind))


def info(path, size=(2, 3), kind='depth', **extra):
    specs = build_specs(dict(t=dict(kind=kind)))
    img = np.zeros((*size, 3), np.uint8)
    return dict(
        img=img,
        img_path='a.png',
        img_shape=size,
        ori_shape=size,
        seg_fields=[],
        targets=dict(t=path),
        target_specs=specs,
        sample_idx=0,
        **extra,
    )


def test_loading(tmp_path):
    path = npy(tmp_path / 'd.npy', np.ones((2, 3)))
    results = LoadTargets()(info(path))
    assert results['target_kinds'] == dict(gt_depth_map='depth')
    assert results['seg_fields'] == ['gt_depth_map']
    assert results['task_valid'] == dict(t=True)
    results = LoadTargets()(info(None))
    assert 'gt_depth_map' not in results
    assert results['task_valid'] == dict(t=False)
    assert results['seg_fields'] == []


def test_truth_of_a_resized_and_flipped_image_has_the_size_of_the_file(tmp_path):
    """As in test pipelines, where annotations are loaded last."""
    vectors = unit_vectors(np.random.default_rng(0), (2, 3))
    path = npy(tmp_path / 'n.npy', vectors)
    moves = [dict(type='Resize', scale=(30, 20)), dict(type='RandomFlip', prob=1.0)]
    sample = run(info(path, kind='normal'), [*moves, LoadTargets(), PackXModalInputs()])
    packed = sample['data_samples'].gt_normal_map.data
    np.testing.assert_allclose(packed.numpy().transpose(1, 2, 0), vectors, atol=1e-6)


def test_wrong_samples(tmp_path):
    path = npy(tmp_path / 'd.npy', np.ones((2, 4)))
    with pytest.raises(ValueError, match=r'd\.npy.*\(2, 4\).*image has \(2, 3\)'):
        LoadTargets()(info(path))
    no_image = info(path)
    del no_image['img']
    with pytest.raises(ValueError, match='LoadModalities'):
        LoadTargets()(no_image)
    plain = info(path)
    del plain['targets']
    with pytest.raises(
        ValueError, match=r"a\.png.*type='mmseg_xmodal.MultiTaskDataset"
    ):
        LoadTargets()(plain)
    del plain['sample_idx']  # an inferencer's
    assert 'target_kinds' not in LoadTargets()(plain)


def test_main_labels_of_some_samples(tmp_path):
    labels = png(tmp_path / 'l.png', np.full((2, 3), 2, np.uint8))
    path = npy(tmp_path / 'd.npy', np.ones((2, 3)))
    load = LoadTargets(seg_loader=dict(type='LoadAnnotations'))
    extra = dict(label_map=None, reduce_zero_label=False)
    results = load(info(path, seg_map_path=labels, **extra))
    assert (results['gt_seg_map'] == 2).all()
    assert results['seg_fields'] == ['gt_seg_map', 'gt_depth_map']
    assert 'gt_seg_map' not in load(info(path, **extra))


def test_representation():
    assert re.match(r'LoadTargets\(seg_loader=None\)', repr(LoadTargets()))
