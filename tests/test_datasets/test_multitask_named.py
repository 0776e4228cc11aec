"""The named multi-task data sets, each on a few files laid out as its package has them.

The converter of Cityscapes is run too; that of PASCAL-Context has tests of its own.
"""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from mmseg_xmodal.registry import DATASETS
from tests.tool_scripts import load_tool

from .labelled import build_named, write_image

SIZE = (4, 6)
GREY = np.full((*SIZE, 3), 90, np.uint8)


@pytest.mark.parametrize(
    ('name', 'classes'),
    [
        ('NYUDv2MTDataset', 40),
        ('PASCALContextMTDataset', 21),
        ('CocoSegDetDataset', 171),
        ('CityscapesBoxesDataset', 19),
    ],
)
def test_classes(name, classes):
    info = DATASETS.get(f'mmseg_xmodal.{name}').METAINFO
    assert len(info['classes']) == len(set(info['classes'])) == classes
    assert len(info['palette']) == classes


# NYU Depth V2 -----------------------------------------------------------------------


def write_nyu(root: Path, layout: str) -> None:
    npy = layout == 'npy'
    depth = np.full(SIZE, 2.5, np.float32)
    depth[0, :2] = 0, 255
    normals = np.zeros((*SIZE, 3), np.float32)
    normals[..., 2] = 1
    normals[1, 0] = 1, 0, 0
    normals[0, 0] = 0
    edge = np.zeros(SIZE, np.uint8)
    edge[2] = 255
    segmentation = np.array([[0, 1, 40, 255, 2, 3]] * 4, np.uint8)
    for stem in ('1', '2'):
        write_image(root / f'images/{stem}{".jpg" if npy else ".png"}', GREY)
        write_image(root / f'segmentation/{stem}.png', segmentation)
        for folder in ('depth', 'normals', 'edge'):
            (root / folder).mkdir(parents=True, exist_ok=True)
        np.save(root / f'depth/{stem}.npy', depth)
        if npy:
            np.save(root / f'normals/{stem}.npy', normals)
            np.save(root / f'edge/{stem}.npy', edge.astype(np.float32) / 255)
        else:
            stored = np.round((normals + 1) / 2 * 255).astype(np.uint8)
            write_image(root / f'normals/{stem}.png', stored)
            write_image(root / f'edge/{stem}.png', edge)
    (root / 'gt_sets').mkdir()
    (root / 'gt_sets/val.txt').write_text('2\n')


@pytest.mark.parametrize('layout', ['png', 'npy'])
def test_nyu(tmp_path, layout):
    write_nyu(tmp_path, layout)
    dataset = build_named(
        'NYUDv2MTDataset', tmp_path, layout=layout, ann_file='gt_sets/val.txt'
    )
    assert len(dataset) == 1
    sample = dataset[0]
    # Void and 255 are ignored, the others count from 0.
    assert sample['gt_seg_map'][0].tolist() == [255, 0, 39, 255, 1, 2]
    depth = sample['gt_depth_map']
    assert np.isnan(depth[0, :2]).all()
    assert (depth[1:] == 2.5).all()
    normals = sample['gt_normal_map']
    assert np.isnan(normals[0, 0]).all()
    # One of 255 steps is .004; an npy file is exact.
    near = 0.006 if layout == 'png' else 1e-6
    np.testing.assert_allclose(normals[1, 0], [1, 0, 0], atol=near)
    np.testing.assert_allclose(normals[3, 3], [0, 0, 1], atol=near)
    assert sample['gt_edge_map'].tolist() == [[0] * 6, [0] * 6, [1] * 6, [0] * 6]


def test_nyu_with_some_tasks(tmp_path):
    write_nyu(tmp_path, 'npy')
    dataset = build_named('NYUDv2MTDataset', tmp_path, layout='npy', targets=['edge'])
    sample = dataset[0]
    assert sample['task_valid'] == dict(edge=True)
    assert 'gt_depth_map' not in sample
    own = dict(relief=dict(kind='value', folder='depth', suffix='.npy'))
    sample = build_named('NYUDv2MTDataset', tmp_path, layout='npy', targets=own)[0]
    assert sample['gt_relief'][0].tolist() == [0, 255, 2.5, 2.5, 2.5, 2.5]
    with pytest.raises(ValueError, match="layout='mat', expected one of"):
        build_named('NYUDv2MTDataset', tmp_path, layout='mat')
    with pytest.raises(FileNotFoundError, match=r'rgb: 0 files \*.png'):
        build_named('NYUDv2MTDataset', tmp_path, layout='png')


# COCO -------------------------------------------------------------------------------


def test_coco(tmp_path):
    things = DATASETS.get('mmseg_xmodal.CocoSegDetDataset').THINGS
    # COCO leaves out ten ids.
    gaps = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    ids = [i for i in range(1, 91) if i not in gaps]
    categories = [dict(id=i, name=n) for i, n in zip(ids, things, strict=True)]
    for stem in ('000000000009', '000000000025'):
        write_image(tmp_path / f'train2017/{stem}.jpg', GREY)
        labels = np.array([[0, 79, 80, 170, 255, 255]] * 4, np.uint8)
        name = f'train2017/{stem}_labelTrainIds.png'
        write_image(tmp_path / 'stuffthingmaps' / name, labels)
    write_image(tmp_path / 'stuffthingmaps/train2017/000000000009.png', labels)

    def box(number, category, bbox, crowd=0):
        return dict(
            id=number, image_id=9, category_id=category, bbox=bbox, iscrowd=crowd
        )

    images = [dict(id=i, file_name=f'{i:012}.jpg', width=6, height=4) for i in (9, 25)]
    annotations = [
        box(1, 90, [0, 0, 2, 2]),
        box(2, 13, [1, 1, 3.5, 2]),
        box(3, 1, [2, 0, 4, 4], crowd=1),
        box(4, 1, [2, 0, 0, 4]),  # without area
    ]
    path = tmp_path / 'annotations/instances_train2017.json'
    path.parent.mkdir()
    content = dict(images=images, annotations=annotations, categories=categories)
    path.write_text(json.dumps(content))

    dataset = build_named('CocoSegDetDataset', tmp_path, split='train2017')
    assert len(dataset) == 2
    sample = dataset[0]
    assert sample['gt_seg_map'][0].tolist() == [0, 79, 80, 170, 255, 255]
    # Category 90 is the last of 80, 13 follows the first gap.
    assert sample['gt_bboxes_labels'].tolist() == [79, 11, 0]
    assert sample['gt_bboxes'].tolist() == [[0, 0, 2, 2], [1, 1, 4.5, 3], [2, 0, 6, 4]]
    assert sample['gt_ignore_flags'].tolist() == [False, False, True]
    # No object is truth as well.
    assert dataset[1]['gt_bboxes'].shape == (0, 4)
    assert dataset[1]['task_valid'] == dict(det=True)


def test_coco_things_are_the_first_classes():
    cls = DATASETS.get('mmseg_xmodal.CocoSegDetDataset')
    assert (cls.THINGS[0], cls.THINGS[-1]) == ('person', 'toothbrush')
    assert cls.METAINFO['classes'][:80] == cls.THINGS
    assert cls.METAINFO['classes'][80] == 'banner'  # the first that is no object


# Cityscapes -------------------------------------------------------------------------


def convert(root: Path, *more: str) -> int:
    return load_tool('dataset_converters/cityscapes_boxes').main([str(root), *more])


def write_cityscapes(root: Path, split: str = 'train') -> None:
    size = (8, 12)
    ids = np.full(size, 7, np.uint16)  # road
    ids[1:4, 2:5] = 26001  # a car
    ids[2, 8] = 26001  # and another part of it behind a pole
    ids[0, 0] = 24000
    ids[5:7, 0:2] = 26  # cars that nobody told apart, in two places
    ids[5:8, 9:12] = 26
    ids[7, 4] = 30000  # a trailer: no class of the benchmark
    labels = np.zeros(size, np.uint8)
    labels[ids // 1000 == 26] = 13
    stored = np.array([[0, 1, 257, 513]] * 8, np.uint16).repeat(3, 1)
    for city, ids_here in (('aachen', ids), ('bonn', np.full(size, 7, np.uint16))):
        stem = f'{split}/{city}/{city}_000000_000019'
        colour = np.zeros((*size, 3), np.uint8)
        write_image(root / f'leftImg8bit/{stem}_leftImg8bit.png', colour)
        write_image(root / f'gtFine/{stem}_gtFine_labelTrainIds.png', labels)
        path = root / f'gtFine/{stem}_gtFine_instanceIds.png'
        assert cv2.imwrite(str(path), ids_here)
        disparity = root / f'disparity/{stem}_disparity.png'
        disparity.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(disparity), stored)


def test_cityscapes(tmp_path, capsys):
    write_cityscapes(tmp_path)
    assert convert(tmp_path, '--splits', 'train') == 0
    assert '2 images, 2 boxes, 2 crowds' in capsys.readouterr().out
    dataset = build_named('CityscapesBoxesDataset', tmp_path, split='train')
    assert len(dataset) == 2
    sample = dataset[0]
    boxes = [
        (tuple(box), int(label), bool(ignore))
        for box, label, ignore in zip(
            sample['gt_bboxes'].tolist(),
            sample['gt_bboxes_labels'],
            sample['gt_ignore_flags'],
            strict=True,
        )
    ]
    assert sorted(boxes) == [
        ((0, 0, 1, 1), 0, False),
        ((0, 5, 2, 7), 2, True),
        ((2, 1, 9, 4), 2, False),
        ((9, 5, 12, 8), 2, True),
    ]
    assert sample['gt_seg_map'].shape == (8, 12)
    assert dataset[1]['gt_bboxes'].shape == (0, 4)
    content = json.loads((tmp_path / 'annotations/boxes_train.json').read_text())
    areas = {tuple(a['bbox']): a['area'] for a in content['annotations']}
    assert areas[2, 1, 7, 3] == 10


def test_cityscapes_with_disparity(tmp_path):
    write_cityscapes(tmp_path)
    dataset = build_named(
        'CityscapesBoxesDataset', tmp_path, split='train', targets=['disparity']
    )
    row = dataset[0]['gt_disparity'][0, ::3]
    assert np.isnan(row[0])
    assert row[1:].tolist() == [0, 1, 2]
    assert dataset[0]['task_valid'] == dict(disparity=True)


def test_cityscapes_converter_errors(tmp_path, capsys):
    assert convert(tmp_path) == 1
    assert 'No file *_gtFine_instanceIds.png below' in capsys.readouterr().err
    path = tmp_path / 'gtFine/train/a/a_gtFine_instanceIds.png'
    write_image(path, np.zeros(SIZE, np.uint8))
    assert convert(tmp_path) == 1
    assert 'holds uint8 (4, 6), expected a grey image of 16' in capsys.readouterr().err
    write_cityscapes(tmp_path)
    with pytest.raises(FileNotFoundError, match='boxes_train.json'):
        build_named('CityscapesBoxesDataset', tmp_path, split='train')
