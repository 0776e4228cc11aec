"""The data sets of street scenes on files laid out as their packages are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmengine.dataset import ConcatDataset

from mmseg_xmodal.datasets import MultiSourceDataset
from mmseg_xmodal.datasets.driving import RGB
from mmseg_xmodal.registry import DATASETS

from .labelled import PIPELINE, QUICK, write_image

IMAGE = np.full((4, 6, 3), 90, np.uint8)
# Road, terrain, sky, rider, bicycle, ignored.
LABELS = np.array([[0, 9, 10, 12, 18, 255]] * 4, np.uint8)
NAMED = ('GTA5', 'SYNTHIA', 'CityscapesXModal', 'ACDCXModal', 'DarkZurichXModal')


def build(name: str, root: Path, **kwargs: Any) -> Any:
    cfg = dict(type=f'mmseg_xmodal.{name}Dataset', data_root=str(root), **QUICK)
    return DATASETS.build(cfg | dict(pipeline=PIPELINE) | kwargs)


def write(root: Path, image: str, label: str | None) -> None:
    write_image(root / image, IMAGE)
    if label is not None:
        write_image(root / label, LABELS)


def write_gta(root: Path) -> None:
    write(root, 'images/00001.png', 'labels/00001_labelTrainIds.png')
    write_image(root / 'labels/00001.png', LABELS)  # what the converter has read


def write_synthia(root: Path) -> None:
    write(root, 'RGB/0000001.png', 'GT/LABELS/0000001_labelTrainIds.png')
    write_image(root / 'GT/LABELS/0000001.png', LABELS)


def write_cityscapes(root: Path) -> None:
    for split in ('train', 'val'):
        end = f'{split}/bonn/bonn_1'
        write(
            root,
            f'leftImg8bit/{end}_leftImg8bit.png',
            f'gtFine/{end}_gtFine_labelTrainIds.png',
        )
        write_image(root / f'gtFine/{end}_gtFine_labelIds.png', LABELS)


def write_acdc(root: Path) -> None:
    for condition in ('fog', 'night', 'rain', 'snow'):
        for split in ('train', 'val', 'test', 'train_ref'):
            end = f'{condition}/{split}/GOPR0475/GOPR0475_frame_1'
            labelled = split in ('train', 'val')
            label = f'gt/{end}_gt_labelTrainIds.png' if labelled else None
            write(root, f'rgb_anon/{end}_rgb_anon.png', label)


def write_zurich(root: Path) -> None:
    for part in ('train/night', 'train/day', 'val/night', 'val/day'):
        end = f'{part}/GOPR0356/GOPR0356_frame_1'
        label = f'gt/{end}_gt_labelTrainIds.png' if part == 'val/night' else None
        write(root, f'rgb_anon/{end}_rgb_anon.png', label)


def labels_of(sample: Any) -> list[int]:
    return sample['data_samples'].gt_sem_seg.data[0, 0].tolist()


@pytest.mark.parametrize(
    ('name', 'writer', 'arguments'),
    [
        ('GTA5', write_gta, {}),
        ('SYNTHIA', write_synthia, {}),
        ('CityscapesXModal', write_cityscapes, dict(split='val')),
        ('ACDCXModal', write_acdc, dict(split='val', conditions='fog')),
        ('DarkZurichXModal', write_zurich, dict(split='val')),
    ],
)
def test_published_layouts(name, writer, arguments, tmp_path):
    writer(tmp_path)
    dataset = build(name, tmp_path, **arguments)
    assert len(dataset) == 1
    assert len(dataset.metainfo['classes']) == 19
    assert dataset[0]['inputs'].shape == (3, 4, 6)
    assert labels_of(dataset[0]) == LABELS[0].tolist()
    # Without labels, as a target.
    bare = build(
        name,
        tmp_path,
        data_prefix=dict(seg_map_path=None),
        pipeline=[PIPELINE[0], PIPELINE[2]],
        **arguments,
    )
    assert 'seg_map_path' not in bare.get_data_info(0)
    assert 'gt_sem_seg' not in bare[0]['data_samples']
    reduced = build(name, tmp_path, ontology='synthia16', **arguments)
    assert reduced.metainfo['classes'] == tuple(
        c for c in dataset.metainfo['classes'] if c not in ('terrain', 'truck', 'train')
    )
    assert len(reduced.metainfo['palette']) == 16
    # Sky moves up by terrain, bicycle by all three.
    assert labels_of(reduced[0]) == [0, 255, 9, 11, 15, 255]
    assert reduced.get_data_info(0)['num_classes'] == 16


def test_conditions_of_acdc(tmp_path):
    write_acdc(tmp_path)
    assert len(build('ACDCXModal', tmp_path)) == 4
    two = build('ACDCXModal', tmp_path, conditions=['snow', 'fog'])
    infos = [two.get_data_info(i) for i in range(2)]
    assert [i['condition'] for i in infos] == ['fog', 'snow']
    assert all('/train/' in i['img_path'] for i in infos)
    # Labels of the test images are not published, reference images have none.
    for split in ('test', 'train_ref'):
        some = build('ACDCXModal', tmp_path, split=split, pipeline=[])
        assert len(some) == 4
        assert 'seg_map_path' not in some.get_data_info(0)
    for wrong in (dict(conditions='sun'), dict(conditions=[]), dict(split='all')):
        with pytest.raises(ValueError, match='some of'):
            build('ACDCXModal', tmp_path, **wrong)


def test_times_of_dark_zurich(tmp_path):
    write_zurich(tmp_path)
    for time in ('night', 'day'):
        info = build('DarkZurichXModal', tmp_path, time=time).get_data_info(0)
        assert f'/train/{time}/' in info['img_path']
        assert 'seg_map_path' not in info
    for wrong in (dict(time='noon'), dict(split='all')):
        with pytest.raises(ValueError, match="'twilight', 'night'"):
            build('DarkZurichXModal', tmp_path, **wrong)


def test_a_missing_label_is_named(tmp_path):
    write_gta(tmp_path)
    write(tmp_path, 'images/00002.png', None)
    with pytest.raises(FileNotFoundError, match='labels/00002_labelTrainIds.png'):
        build('GTA5', tmp_path)


def test_sources_become_equal_by_an_ontology(tmp_path):
    write_gta(tmp_path / 'gta')
    (tmp_path / 'own/labels').mkdir(parents=True)
    write_image(tmp_path / 'own/rgb/1.png', IMAGE)
    write_image(
        tmp_path / 'own/labels/1.png', np.array([[0, 1, 1, 2, 2, 255]] * 4, np.uint8)
    )
    own = dict(
        type='mmseg_xmodal.MultiModalSegDataset',
        data_root=str(tmp_path / 'own'),
        modalities=dict(RGB),
        metainfo=dict(classes=('boat', 'human', 'road')),
        data_prefix=dict(seg_map_path='labels'),
        pipeline=PIPELINE,
        **QUICK,
    )
    gta = build('GTA5', tmp_path / 'gta')
    with pytest.raises(ValueError, match=r"'road', 'sidewalk'.*'boat'.*`ontology`"):
        MultiSourceDataset([gta, own])
    dropped = set(gta.metainfo['classes']) - {'road', 'person', 'rider'}
    ontology = dict(
        classes=['human', 'road'],
        map=dict(person='human', rider='human', boat=None) | dict.fromkeys(dropped),
    )
    gta = build('GTA5', tmp_path / 'gta', ontology=ontology)
    both = MultiSourceDataset([gta, own | dict(ontology=ontology)])
    assert both.metainfo['classes'] == ('human', 'road')
    assert labels_of(both[0]) == [1, 255, 255, 0, 255, 255]
    assert labels_of(both[1]) == [255, 0, 0, 1, 1, 255]
    assert len(ConcatDataset(both.datasets, ignore_keys=['label_map'])) == 2


def test_ontologies_that_do_not_fit(tmp_path):
    write_gta(tmp_path)
    with pytest.raises(ValueError, match=r'becomes of .*sidewalk.*Add them to `map`'):
        build('GTA5', tmp_path, ontology=dict(classes=['road']))
    subset = dict(classes=('road', 'sky'))
    with pytest.raises(ValueError, match='expected the classes of the label files'):
        build('GTA5', tmp_path, ontology='synthia16', metainfo=subset)
