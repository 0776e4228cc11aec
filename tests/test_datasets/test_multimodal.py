from __future__ import annotations

import random
import shutil

import cv2
import numpy as np
import pytest
import torch
from mmengine.dataset import ConcatDataset

from mmseg_xmodal.datasets import MultiModalSegDataset
from mmseg_xmodal.datasets.samplers import SeededIndex
from mmseg_xmodal.registry import DATASETS
from tests.synthetic import CLASSES

PREFIX = dict(rgb='rgb/train', depth='depth/train', seg_map_path='labels/train')


def build(root, modalities, **kwargs):
    kwargs = dict(
        type='mmseg_xmodal.MultiModalSegDataset',
        data_root=str(root),
        modalities=modalities,
        data_prefix=PREFIX,
        metainfo=dict(classes=CLASSES),
        **kwargs,
    )
    return DATASETS.build(kwargs)


@pytest.fixture
def own_root(rgbd_root, tmp_path):
    """A copy of the data set that a test may change."""
    shutil.copytree(rgbd_root, tmp_path / 'data')
    return tmp_path / 'data'


def test_pairs_every_file(rgbd_root, modalities):
    info = build(rgbd_root, modalities)[3]
    assert info['modality_paths'] == dict(
        rgb=f'{rgbd_root}/rgb/train/003.png', depth=f'{rgbd_root}/depth/train/003.png'
    )
    assert info['img_path'] == info['modality_paths']['rgb']
    assert info['seg_map_path'] == f'{rgbd_root}/labels/train/003.png'
    assert info['num_classes'] == 4
    assert info['ignore_index'] == 255
    assert info['seg_fields'] == []


def test_sub_folders_suffixes_and_a_shared_folder(tmp_path):
    (tmp_path / 'img' / 'a').mkdir(parents=True)
    (tmp_path / 'x' / 'a').mkdir(parents=True)
    for stem in ('a/1', 'a/2'):
        for suffix in ('.png', '_nir.png'):
            cv2.imwrite(str(tmp_path / 'img' / (stem + suffix)), np.zeros((2, 2)))
        np.save(tmp_path / 'x' / f'{stem}_dem.npy', np.zeros((2, 2)))
    dataset = MultiModalSegDataset(
        modalities={n: dict(channels=1) for n in ('pan', 'nir', 'dem')},
        data_root=str(tmp_path),
        data_prefix=dict(pan='img', nir='img', dem='x', seg_map_path=None),
        suffixes=dict(nir='_nir.png', dem='_dem.npy'),
    )
    assert len(dataset) == 2
    assert dataset[1]['modality_paths'] == dict(
        pan=f'{tmp_path}/img/a/2.png',
        nir=f'{tmp_path}/img/a/2_nir.png',
        dem=f'{tmp_path}/x/a/2_dem.npy',
    )
    # Without a colour modality, the first of the layout.
    assert dataset[1]['img_path'] == f'{tmp_path}/x/a/2_dem.npy'
    assert 'seg_map_path' not in dataset[1]
    assert 'num_classes' not in dataset[1]


def test_ann_file_chooses_stems(own_root, modalities):
    (own_root / 'half.txt').write_text('005\n\n001\n')
    (own_root / 'depth/train/007.png').unlink()
    dataset = build(own_root, modalities, ann_file='half.txt')
    assert [d['img_path'][-7:-4] for d in dataset] == ['005', '001']


def test_a_modality_that_may_be_missing(own_root, modalities):
    (own_root / 'depth/train/002.png').unlink()
    modalities['depth']['may_be_missing'] = True
    dataset = build(own_root, modalities)
    assert len(dataset) == 8
    assert dataset[2]['modality_paths']['depth'] is None
    assert dataset[3]['modality_paths']['depth'] is not None


@pytest.mark.parametrize(
    ('change', 'pattern'),
    [
        (
            dict(data_prefix=dict(PREFIX, depth='dept/train')),
            r'8 files are missing for 8 samples(.|\n)*'
            r'depth: 0 files \*\.png in .*dept/train \(this folder does not exist\)',
        ),
        (
            dict(suffixes=dict(depth='.tif')),
            r"depth: 0 files \*\.tif in .*depth/train \(suffixes there: \['\.png'\]\)",
        ),
    ],
)
def test_a_modality_that_no_sample_has_is_a_wrong_path(
    rgbd_root, modalities, change, pattern
):
    modalities['depth']['may_be_missing'] = True
    kwargs = dict(data_root=str(rgbd_root), data_prefix=PREFIX, modalities=modalities)
    remedy = r'(.|\n)*data_prefix=dict\(NAME=None\)'
    with pytest.raises(FileNotFoundError, match=pattern + remedy):
        MultiModalSegDataset(**{**kwargs, **change})


@pytest.mark.parametrize('absent', ['depth', 'rgb'])
def test_a_modality_that_is_stated_to_be_absent(rgbd_root, modalities, absent):
    """Its folder is not looked at, though it is there."""
    modalities[absent]['may_be_missing'] = True
    pipeline = [
        dict(type='mmseg_xmodal.LoadModalities'),
        dict(type='LoadAnnotations'),
        dict(type='mmseg_xmodal.PackXModalInputs'),
    ]
    kwargs = dict(data_root=str(rgbd_root), modalities=modalities)
    prefix = {**PREFIX, absent: None}
    dataset = MultiModalSegDataset(**kwargs, data_prefix=prefix, pipeline=pipeline)
    assert len(dataset) == 8
    (other,) = {'rgb', 'depth'} - {absent}
    path = f'{rgbd_root}/{other}/train/003.png'
    assert dataset.get_data_info(3)['modality_paths'] == {absent: None, other: path}
    assert dataset.get_data_info(3)['img_path'] == path
    stack = dataset[3]['inputs']
    validity = dataset.layout.stack_validity_index(absent)
    assert stack[dataset.layout.value_slice(absent)].eq(0).all()
    assert stack[validity].eq(0).all()
    with pytest.raises(FileNotFoundError, match=f'{other}: 0 files'):
        MultiModalSegDataset(**kwargs, data_prefix={**prefix, other: 'nowhere'})


def test_a_required_modality_cannot_be_absent(rgbd_root, modalities):
    pattern = r"data_prefix\['depth'\] is None.*\['depth'\]\['may_be_missing'\]=True"
    with pytest.raises(ValueError, match=pattern):
        build_with(rgbd_root, modalities, depth=None)
    for fields in modalities.values():
        fields['may_be_missing'] = True
    with pytest.raises(ValueError, match=r"None for every modality \['rgb', 'depth'\]"):
        build_with(rgbd_root, modalities, depth=None, rgb=None)


def build_with(root, modalities, **prefix):
    return MultiModalSegDataset(
        modalities, data_root=str(root), data_prefix={**PREFIX, **prefix}
    )


def test_img_path_falls_back_to_what_is_there(own_root, modalities):
    (own_root / 'rgb/train/002.png').unlink()
    modalities['rgb']['may_be_missing'] = True
    info = build(own_root, modalities)[2]
    assert info['img_path'] == info['modality_paths']['depth']


def test_no_modality_at_all_is_missing_too(own_root, modalities):
    for name in ('rgb', 'depth'):
        (own_root / name / 'train/002.png').unlink()
        modalities[name]['may_be_missing'] = True
    with pytest.raises(FileNotFoundError, match=r'rgb/train/002\.png'):
        build(own_root, modalities)


def test_subset_of_classes_maps_labels(rgbd_root, modalities):
    class Named(MultiModalSegDataset):
        METAINFO = dict(classes=CLASSES, palette=[[i, i, i] for i in range(4)])

    dataset = Named(
        modalities=modalities,
        data_root=str(rgbd_root),
        data_prefix=PREFIX,
        metainfo=dict(classes=('near', 'red')),
    )
    assert dataset[0]['label_map'] == {0: 255, 1: 0, 2: 1, 3: 255}
    assert dataset[0]['num_classes'] == 2


def draw(results: dict) -> dict:
    draws = (random.random(), np.random.rand(), torch.rand(()).item())  # noqa: NPY002
    return dict(draws=draws, index=results['sample_idx'])


def test_a_seeded_index_seeds_its_sample_only(rgbd_root, modalities):
    dataset = build(rgbd_root, modalities)
    dataset.pipeline = draw
    np.random.seed(3)  # noqa: NPY002
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    first = dataset[SeededIndex(2, seed=5)]
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    dataset[0]
    assert dataset[SeededIndex(2, seed=5)] == first
    assert dataset[SeededIndex(2, seed=6)]['draws'] != first['draws']
    assert type(first['index']) is int


def test_the_seed_survives_concat(rgbd_root, modalities):
    parts = [build(rgbd_root, modalities), build(rgbd_root, modalities)]
    for part in parts:
        part.pipeline = draw
    both = ConcatDataset(parts)
    assert both[SeededIndex(10, seed=5)] == parts[0][SeededIndex(2, seed=5)]


def test_a_refused_sample_is_replaced_by_a_seeded_one(rgbd_root, modalities):
    dataset = build(rgbd_root, modalities)
    dataset.pipeline = lambda r: None if r['sample_idx'] == 2 else r['sample_idx']
    first = dataset[SeededIndex(2, seed=5)]
    np.random.seed(99)  # noqa: NPY002
    assert dataset[SeededIndex(2, seed=5)] == first
    assert first != 2


def test_folders_by_name_and_split(rgbd_root, modalities):
    dataset = MultiModalSegDataset(
        modalities,
        data_root=str(rgbd_root),
        data_prefix=dict(seg_map_path='labels'),
        split='val',
    )
    named = build(rgbd_root, modalities)
    assert dataset.data_prefix['depth'] == str(rgbd_root / 'depth' / 'val')
    assert dataset.data_prefix['seg_map_path'] == str(rgbd_root / 'labels' / 'val')
    assert len(dataset) == len(named)


def test_the_loader_takes_the_modalities_of_the_data_set(rgbd_root, modalities):
    loaded = []
    for pipeline in (
        [dict(type='mmseg_xmodal.LoadModalities')],
        [dict(type='mmseg_xmodal.LoadModalities', modalities=modalities)],
    ):
        dataset = MultiModalSegDataset(
            modalities, data_root=str(rgbd_root), split='val', pipeline=pipeline
        )
        loaded.append(dataset[0]['img'])
    assert loaded[0].shape[-1] == 5
    assert (loaded[0] == loaded[1]).all()


def test_metainfo_holds_no_modality(rgbd_root, modalities):
    """ConcatDataset compares metainfo; sets with other modalities must join."""
    assert not set(build(rgbd_root, modalities).metainfo) & {'modalities', 'suffixes'}


@pytest.mark.parametrize(
    ('change', 'pattern'),
    [
        (
            dict(data_prefix=dict(PREFIX, nir='nir')),
            r"data_prefix has the keys \['nir'\]",
        ),
        (
            dict(data_prefix=dict(PREFIX, nir=None)),
            r"data_prefix has the keys \['nir'\]",
        ),
        (dict(suffixes=dict(nir='.png')), r"suffixes has the keys \['nir'\]"),
    ],
)
def test_wrong_keys(rgbd_root, modalities, change, pattern):
    arguments = dict(
        modalities=modalities, data_root=str(rgbd_root), data_prefix=PREFIX
    )
    with pytest.raises(ValueError, match=pattern):
        MultiModalSegDataset(**{**arguments, **change})
