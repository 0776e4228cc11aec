"""The converter of PASCAL-Context, and the data set on what it makes."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from tests.test_datasets.labelled import build_named, write_image
from tests.tool_scripts import load_tool

NAME = 'PASCALContextMTDataset'
SIZE = (4, 6)
GREY = np.full((*SIZE, 3), 90, np.uint8)


@pytest.fixture(scope='module')
def tool() -> ModuleType:
    return load_tool('dataset_converters/pascal_context_mt')


def mask(rows: slice, columns: slice) -> np.ndarray:
    array = np.zeros(SIZE, np.uint8)
    array[rows, columns] = 1
    return array


def write_pascal(root: Path) -> None:
    """Images a (two persons), b (a dog with parts), c (no file of parts)."""
    label_map = np.full(SIZE, 2, np.uint16)
    label_map[:, 3:] = 300
    names = [f'thing{i}' for i in range(1, 460)]
    names[1], names[299] = 'wall', 'sky'
    (root / 'json').mkdir(parents=True)
    context = {name: number for number, name in enumerate(names, 1)}
    (root / 'json/context_classes.json').write_text(json.dumps(context))
    (root / 'json/nyu_classes.json').write_text(json.dumps({'wall': 1, 'bed': 2}))
    for stem in 'abc':
        write_image(root / f'JPEGImages/{stem}.jpg', GREY)
        normals = np.full((*SIZE, 3), [128, 128, 255], np.uint8)
        write_image(root / f'normals_distill/{stem}.png', normals)
        saliency = np.array([[0, 127, 128, 255, 0, 0]] * 4, np.uint8)
        write_image(root / f'sal_distill/{stem}.png', saliency)
        for folder, value in (('pascal-context', 5), ('VOC12', 15)):
            if folder == 'VOC12' and stem != 'a':
                continue
            write_image(
                root / f'semseg/{folder}/{stem}.png', np.full(SIZE, value, np.uint8)
            )
        path = root / f'pascal-context/trainval/{stem}.mat'
        path.parent.mkdir(parents=True, exist_ok=True)
        savemat(path, dict(LabelMap=label_map))
    (root / 'human_parts').mkdir()
    kind = [(n, object) for n in ('class', 'class_ind', 'mask', 'parts')]
    part = [('part_name', object), ('mask', object)]

    def parts(*pairs):
        return np.array([list(pairs)], part)

    head = ('lear', mask(slice(0, 1), slice(0, 1)))
    arm = ('rhand', mask(slice(1, 2), slice(0, 2)))
    foot = ('lfoot', mask(slice(3, 4), slice(5, 6)))
    tail = ('tail', mask(slice(3, 4), slice(0, 6)))
    everything = mask(slice(None), slice(None))
    persons = [
        ('person', 15, everything, parts(head, arm)),
        ('dog', 12, everything, parts(tail)),
        ('person', 15, everything, parts(foot)),
        ('person', 15, everything, np.zeros((0, 0))),
    ]
    dogs = [('dog', 12, everything, parts(tail))]
    for stem, objects in (('a', persons), ('b', dogs)):
        anno = dict(imname=stem, objects=np.array([objects], kind))
        savemat(root / f'human_parts/{stem}.mat', dict(anno=anno))
    lists = root / 'ImageSets/Context'
    lists.mkdir(parents=True)
    (lists / 'train.txt').write_text('a\nb\n')
    (lists / 'val.txt').write_text('c\n')


@pytest.fixture
def pascal(tmp_path):
    write_pascal(tmp_path)
    return tmp_path


def test_pascal(tool, pascal, capsys):
    assert tool.main([str(pascal)]) == 0
    assert 'human_parts: 3 files, 2 ignored all over' in capsys.readouterr().out
    kwargs = dict(ann_file='ImageSets/Context/train.txt')
    dataset = build_named(NAME, pascal, **kwargs)
    first, second = dataset[0], dataset[1]
    # VOC12 before pascal-context.
    assert (first['gt_seg_map'] == 15).all()
    assert (second['gt_seg_map'] == 5).all()
    assert first['gt_human_parts'].tolist() == [
        [1, 0, 0, 0, 0, 0],
        [4, 4, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 6],
    ]
    assert (second['gt_human_parts'] == 255).all()
    assert first['gt_saliency'][0].tolist() == [0, 0, 1, 1, 0, 0]
    # "wall" is a class of NYU, "sky" is none.
    normals = first['gt_normal_map']
    np.testing.assert_allclose(normals[:, :3], [[[0, 0, 1]] * 3] * 4, atol=0.006)
    assert np.isnan(normals[:, 3:]).all()
    # The border is two pixels wide before thinning, which takes an end off too.
    edges = first['gt_edge_map']
    assert edges.sum(1).max() == 1
    assert edges[1:3].sum(1).tolist() == [1, 1]
    assert set(np.flatnonzero(edges.any(0))) <= {2, 3}
    val = build_named(NAME, pascal, ann_file='ImageSets/Context/val.txt')
    assert (val[0]['gt_human_parts'] == 255).all()


def test_pascal_with_some_tasks(tool, pascal):
    assert tool.main([str(pascal), '--tasks', 'semseg', 'edges']) == 0
    assert not (pascal / 'multitask/normals').exists()
    kwargs = dict(ann_file='ImageSets/Context/val.txt', targets=['edge'])
    sample = build_named(NAME, pascal, **kwargs)[0]
    assert sample['task_valid'] == dict(edge=True)
    assert tool.main([str(pascal), '--shared', 'sky', '--tasks', 'normals']) == 0
    stored = np.asarray(Image.open(pascal / 'multitask/normals/a.png'))
    assert (stored == [128, 128, 255]).all()


@pytest.mark.parametrize(
    ('break_it', 'message'),
    [
        (lambda r: (r / 'json/nyu_classes.json').unlink(), 'nyu_classes.json does not'),
        (lambda r: (r / 'sal_distill/b.png').unlink(), 'b.png cannot be read'),
        (
            lambda r: (r / 'human_parts/a.mat').write_bytes(b'no'),
            'a.mat: no MATLAB file of version 5',
        ),
        (
            lambda r: savemat(r / 'pascal-context/trainval/c.mat', dict(other=1)),
            "c.mat has no variable 'LabelMap'",
        ),
        (
            lambda r: (r / 'json/nyu_classes.json').write_text('["bed"]'),
            '0 classes are shared',
        ),
        (lambda r: (r / 'ImageSets/Context/val.txt').unlink(), 'val.txt'),
    ],
)
def test_pascal_converter_errors(tool, pascal, capsys, break_it, message):
    break_it(pascal)
    assert tool.main([str(pascal)]) == 1
    assert message in capsys.readouterr().err


def test_pascal_names_of_parts(tool):
    wing = dict(part_name='wing', mask=mask(slice(1), slice(1)))
    person: Any = dict(parts=wing)
    person['class'] = 'person'
    with pytest.raises(ValueError, match="unknown part 'wing' of a person"):
        tool.human_parts(dict(objects=person), SIZE)
    names = 'head leye rebrow hair neck torso luarm rlarm lhand ruleg llleg rfoot'
    for name in names.split():
        one: Any = dict(parts=dict(part_name=name, mask=np.ones(SIZE)))
        one['class'] = 'person'
        assert tool.human_parts(dict(objects=one), SIZE).min() in range(1, 7)


def test_thin(tool):
    bar = np.zeros((9, 20), bool)
    bar[3:6, 2:18] = True
    line = tool.thin(bar)
    assert line[:, 6:14].sum(0).tolist() == [1] * 8
    assert line.sum() < 20
    # Thin lines, single pixels and rings stay; what is connected stays connected.
    rng = np.random.default_rng(0)
    for _ in range(20):
        noise = cv2.GaussianBlur(rng.random((30, 40)), (0, 0), 2) > 0.5
        thinned = tool.thin(noise)
        assert (tool.thin(thinned) == thinned).all()
        assert not (thinned & ~noise).any()
        count = [
            cv2.connectedComponents(m.astype(np.uint8))[0] for m in (noise, thinned)
        ]
        assert count[0] == count[1]
        holes = [
            cv2.connectedComponents((~np.pad(m, 1)).astype(np.uint8), connectivity=4)
            for m in (noise, thinned)
        ]
        assert holes[0][0] == holes[1][0]
