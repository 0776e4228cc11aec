"""Data sets with several targets, from files to packed samples."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from torch.utils.data import DataLoader

from mmseg_xmodal.registry import DATASETS

from .multitask_samples import MODALITIES, TARGETS, write_boxes, write_split

LOADING = [
    dict(type='mmseg_xmodal.LoadModalities'),
    dict(type='mmseg_xmodal.LoadTargets', seg_loader=dict(type='LoadAnnotations')),
]
PACK = dict(type='mmseg_xmodal.PackXModalInputs')
AUGMENT = [
    dict(
        type='mmseg_xmodal.XModalRandomResize',
        scale=(16, 12),
        ratio_range=(0.8, 1.5),
        keep_ratio=True,
    ),
    dict(type='mmseg_xmodal.XModalRandomCrop', crop_size=(12, 12)),
    dict(type='mmseg_xmodal.XModalRandomFlip', prob=0.5),
    dict(type='mmseg_xmodal.XModalRandomRotate', prob=0.5, degree=20.0),
]


@pytest.fixture
def root(tmp_path):
    write_split(tmp_path)
    return tmp_path


def build(root, targets=TARGETS, **kwargs):
    cfg = dict(
        type='mmseg_xmodal.MultiTaskDataset',
        data_root=str(root),
        split='train',
        modalities=MODALITIES,
        suffixes=dict(thermal='.npy'),
        targets=targets,
        data_prefix=dict(seg_map_path='labels'),
        metainfo=dict(classes=tuple('abcde')),
        pipeline=[*LOADING, PACK],
    )
    cfg.update(kwargs)
    return DATASETS.build(cfg)


def with_boxes(root, *annotations, target='det', **fields):
    """A data set with these boxes in sample a, and none in b."""
    write_boxes(root / 'boxes_train.json', ('a', 'b'), annotations=dict(a=annotations))
    return build(root, {target: TARGETS[target] | fields}, pipeline=[])


def test_every_target_arrives(root):
    dataset = build(root)
    assert len(dataset) == 2
    sample = dataset[0]['data_samples']
    stored = cv2.imread(str(root / 'depth/train/a.png'), cv2.IMREAD_UNCHANGED)
    want = np.where(stored == 0, np.nan, stored * 0.01).astype(np.float32)
    np.testing.assert_allclose(sample.gt_depth_map.data[0], want, rtol=1e-6)
    assert sample.gt_instances.bboxes.tolist() == [[2, 2, 6, 6]]
    assert sample.gt_instances.labels.tolist() == [0]
    assert sample.gt_label.label.tolist() == [1, 0]
    assert sample.task_valid == dict.fromkeys(TARGETS, True)
    fields = {'gt_sem_seg', 'gt_normal_map', 'gt_edge_map', 'gt_landcover'}
    assert fields <= set(sample.keys())
    assert sample.gt_elevation.shape == (12, 16)


def test_augmented_samples_come_from_workers(root):
    dataset = build(root, pipeline=[*LOADING, *AUGMENT, PACK])
    loader = DataLoader(dataset, 2, num_workers=1, collate_fn=pseudo_collate)
    batch = next(iter(loader))
    for inputs, sample in zip(batch['inputs'], batch['data_samples'], strict=True):
        assert inputs.shape[-2:] == sample.gt_normal_map.shape == sample.img_shape


def test_meta_information_names_classes_and_units(root):
    targets = build(root).metainfo['targets']
    assert targets['depth'] == dict(kind='depth', classes=None, unit='m')
    assert targets['det'] == dict(kind='boxes', classes=('car', 'dog'), unit=None)
    cover = dict(kind='label', classes=3, reduce_zero_label=True)
    (read,) = build(root, dict(landcover=cover)).metainfo['targets'].values()
    assert read == cover | dict(unit=None)


def test_data_sets_with_other_targets_can_be_mixed(root):
    parts = [build(root), build(root, dict(depth=TARGETS['depth']))]
    mixed = DATASETS.build(
        dict(type='ConcatDataset', datasets=parts, ignore_keys=['targets'])
    )
    valid = [mixed[i]['data_samples'].task_valid for i in (0, 3)]
    assert [set(v) for v in valid] == [set(TARGETS), {'depth'}]


def test_partial_labels(root):
    (root / 'depth/train/b.png').unlink()
    (root / 'labels/train/a.png').unlink()
    write_boxes(root / 'boxes_train.json', ['a'])
    targets = {k: v | dict(may_be_missing=True) for k, v in TARGETS.items()}
    dataset = build(root, targets, seg_may_be_missing=True)
    a, b = (dataset[i]['data_samples'] for i in range(2))
    missing = dict(depth=False, det=False, cls=False)
    assert b.task_valid == dict.fromkeys(TARGETS, True) | missing
    assert not {'gt_depth_map', 'gt_instances', 'gt_label'} & set(b.keys())
    assert 'gt_sem_seg' in b
    assert 'gt_sem_seg' not in a
    assert a.task_valid['depth']


def test_no_main_labels_at_all(root):
    dataset = build(root, data_prefix={})
    sample = dataset[0]['data_samples']
    assert 'gt_sem_seg' not in sample
    assert 'gt_depth_map' in sample


def test_all_missing_files_in_one_error(root):
    (root / 'rgb/train/a.png').unlink()
    (root / 'depth/train/b.png').unlink()
    (root / 'normal/train/a.npy').unlink()
    write_boxes(root / 'boxes_train.json', ['a'])
    with pytest.raises(FileNotFoundError) as error:
        build(root)
    text = str(error.value)
    for line in (
        'rgb/train/a.png',
        'depth/train/b.png',
        'normal/train/a.npy',
        'boxes_train.json: b',
        'targets[depth] 1',
        "targets[name]['may_be_missing']=True",
    ):
        assert line in text


@pytest.mark.parametrize(
    ('name', 'fields', 'pattern'),
    [
        ('depth', dict(folder='dept'), r'dept/train \(this folder does not exist\)'),
        ('depth', dict(suffix='.tif'), r"suffixes there: \['.png'\]"),
        ('det', dict(ann_file='boxes.json'), r'boxes.json \(this file does not exist'),
    ],
)
def test_a_target_that_nobody_has_is_no_partial_label(root, name, fields, pattern):
    cfg = {name: TARGETS[name] | fields | dict(may_be_missing=True)}
    with pytest.raises(FileNotFoundError, match=pattern):
        build(root, cfg)


def test_a_json_may_list_other_images(root):
    write_boxes(root / 'boxes_train.json', ['a', 'b', 'elsewhere'])
    assert len(build(root)) == 2


def test_file_names_with_folders(root):
    path = root / 'boxes_train.json'
    content = json.loads(path.read_text())
    for image in content['images']:
        image['file_name'] = 'train/' + image['file_name']
    path.write_text(json.dumps(content))
    assert len(build(root)[1]['data_samples'].gt_instances) == 1
    content['images'].append(dict(content['images'][0], id=9, file_name='val/a.png'))
    path.write_text(json.dumps(content))
    with pytest.raises(FileNotFoundError, match=r'boxes_train\.json: a'):
        build(root)


def test_crowds_and_small_objects_are_ignored(root):
    dataset = with_boxes(
        root,
        dict(bbox=[0, 0, 4, 4], category_id=3),
        dict(bbox=[1, 0, 4, 4], category_id=7, iscrowd=1),
        dict(bbox=[2, 0, 4, 4], category_id=7, area=3),
        dict(bbox=[3, 0, 2, 2], category_id=3),
        dict(bbox=[4, 0, 4, 4], category_id=7, difficult=True),
        min_area=5,
    )
    boxes = dataset[0]['targets']['det']
    assert boxes['ignore'].tolist() == [False, True, True, True, True]
    assert boxes['labels'].tolist() == [0, 1, 1, 0, 1]
    assert dataset[1]['targets']['det']['bboxes'].shape == (0, 4)


def test_other_categories_are_left_out(root):
    boxes = (
        dict(bbox=[0, 0, 4, 4], category_id=3),
        dict(bbox=[1, 1, 4, 4], category_id=7),
    )
    dataset = with_boxes(root, *boxes, classes=['dog'])
    assert dataset[0]['targets']['det']['bboxes'].tolist() == [[1, 1, 5, 5]]
    assert dataset[0]['targets']['det']['labels'].tolist() == [0]


def test_boxes_are_cut_at_the_border(root):
    dataset = with_boxes(root, dict(bbox=[-2, 5, 30, 30], category_id=3))
    assert dataset[0]['targets']['det']['bboxes'].tolist() == [[0, 5, 16, 12]]


BAD = [
    dict(bbox=[1, 1, 0, 4], category_id=3),
    dict(bbox=[16, 1, 4, 4], category_id=3),
    dict(bbox=[1, 1, float('nan'), 4], category_id=7),
    dict(bbox=[1, 1, 4, -2], category_id=7),
]
GOOD = dict(bbox=[1, 1, 4, 4], category_id=3)


def test_bad_boxes_are_named_in_one_error(root):
    with pytest.raises(ValueError, match="'bad_boxes'.='drop'") as error:
        with_boxes(root, *BAD, GOOD)
    text = str(error.value)
    assert '4 boxes' in text
    for number in range(4):
        assert f'a: annotation {number} (' in text
    assert '16 x 12 (width x height)' in text


def test_bad_boxes_can_be_dropped(root, monkeypatch):
    said = []
    monkeypatch.setattr(
        'mmseg_xmodal.datasets.multitask.print_log', lambda text, **_: said.append(text)
    )
    dataset = with_boxes(root, *BAD, GOOD, bad_boxes='drop')
    assert dataset[0]['targets']['det']['bboxes'].tolist() == [[1, 1, 5, 5]]
    assert len(said) == 1
    assert '4 boxes' in said[0]
    assert 'a: annotation 0 (car)' in said[0]


def test_bad_boxes_of_images_that_are_not_used_do_not_matter(root):
    write_boxes(root / 'boxes_train.json', ('a', 'b', 'c'), annotations=dict(c=BAD))
    assert len(build(root)) == 2


def test_which_classes_are_present(root):
    """Yes beats unknown: a class seen in a small object and in a large one is there."""
    fields = dict(target='cls', classes=['small', 'both', 'no'], from_boxes='type')
    dataset = with_boxes(
        root,
        dict(bbox=[0, 0, 4, 4], category_id=3, type='small', area=2),
        dict(bbox=[0, 0, 4, 4], category_id=3, type='both', area=9),
        dict(bbox=[0, 0, 4, 4], category_id=3, type='both', area=2),
        dict(bbox=[0, 0, 4, 4], category_id=3, type='another'),
        **fields,
        min_area=5,
    )
    assert dataset[0]['targets']['cls'].tolist() == [-1, 1, 0]
    assert dataset[1]['targets']['cls'].tolist() == [0, 0, 0]


@pytest.mark.parametrize('multi', [True, False])
def test_image_labels_from_names(root, multi):
    names = dict(a='day', b=['night']) if not multi else dict(a=['day', 'fog'], b=[])
    (root / 'scenes.json').write_text(json.dumps(names))
    spec = dict(
        kind='image_labels',
        ann_file='scenes.json',
        classes=['day', 'night', 'fog'],
        multi_label=multi,
    )
    dataset = build(root, dict(scene=spec))
    got = [dataset[i]['data_samples'].gt_label.label for i in range(2)]
    if multi:
        assert [g.tolist() for g in got] == [[1, 0, 1], [0, 0, 0]]
        assert got[0].dtype == torch.float32
    else:
        assert [g.tolist() for g in got] == [[0], [1]]
        assert got[0].dtype == torch.int64


SCENE = dict(kind='image_labels', ann_file='s.json', classes=['day'], multi_label=False)


@pytest.mark.parametrize(
    ('content', 'spec', 'pattern'),
    [
        ('{"a": "day", "b": "dusk"}', SCENE, r"s\.json: b has \['dusk'\].*\['day'\]"),
        ('{"a": "day", "b": ["day", "day"]}', SCENE, 'expected one name'),
        ('["a"]', SCENE, 'holds a list, expected a dict'),
        ('{"a": ', SCENE, r's\.json. is no JSON'),
        ('{"a": []}', TARGETS['det'] | dict(ann_file='s.json'), 'is no COCO file'),
        (
            '{"images": [{"id": 1, "file_name": "a.png"}], "annotations": [], '
            '"categories": [{"id": 3, "name": "car"}, {"id": 7, "name": "dog"}]}',
            TARGETS['det'] | dict(ann_file='s.json'),
            r"without \['width', 'height'\]",
        ),
        (
            '{"images": [], "annotations": [], '
            '"categories": [{"id": 3, "name": "car"}]}',
            TARGETS['det'] | dict(ann_file='s.json'),
            r"no categories \['dog'\].*\['car'\]",
        ),
    ],
)
def test_wrong_json(root, content, spec, pattern):
    (root / 's.json').write_text(content)
    with pytest.raises(ValueError, match=pattern):
        build(root, dict(t=spec))


def test_boxes_for_another_size_of_image(root):
    write_boxes(root / 'boxes_train.json', ('a', 'b'), size=(24, 32))
    with pytest.raises(ValueError, match=r'boxes.*\(24, 32\).*image has \(12, 16\)'):
        build(root)[0]


def test_a_stock_transform_that_gets_targets_wrong(root):
    flip = dict(type='RandomFlip', prob=0.5)
    with pytest.raises(ValueError, match=r'MultiTaskDataset: RandomFlip.*normal'):
        build(root, pipeline=[*LOADING, flip, PACK])


@pytest.mark.parametrize('targets', ['depth', ['depth']])
def test_names_without_a_named_data_set(root, targets):
    with pytest.raises(ValueError, match=r'targets is .*expected.*dict\(depth='):
        build(root, targets)
