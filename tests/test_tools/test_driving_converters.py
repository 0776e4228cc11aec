"""The converters of the street scenes: label ids to train ids, on made-up packages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.test_datasets.labelled import write_image
from tests.test_datasets.test_driving import IMAGE, build, labels_of
from tests.tool_scripts import load_tool

SIZE = (4, 6)
# Road, rider, bicycle, licence plate, unlabelled, ego vehicle.
IDS = np.array([[7, 25, 33, 34, 0, 1]] * 4, np.uint8)
TRAIN_IDS = [0, 12, 18, 255, 255, 255]


def read(path: Path) -> Any:
    return np.asarray(Image.open(path))[0].tolist()


def write_palette(path: Path, ids: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(ids, mode='P')
    image.putpalette(list(range(256)) * 3)
    image.save(path)


def write_gta(root: Path, count: int = 2) -> None:
    for number in range(1, count + 1):
        write_image(root / f'images/{number:05}.png', IMAGE)
        write_palette(root / f'labels/{number:05}.png', IDS)


def test_gta5(tmp_path, capsys):
    write_gta(tmp_path)
    tool = load_tool('dataset_converters/gta5')
    assert tool.main([str(tmp_path), '--workers', '2']) == 0
    assert '2 files written, 0 were there' in capsys.readouterr().out
    assert read(tmp_path / 'labels/00002_labelTrainIds.png') == TRAIN_IDS
    dataset = build('GTA5', tmp_path)
    assert labels_of(dataset[1]) == TRAIN_IDS
    # What is there stays; what is missing is made.
    kept, lost = (tmp_path / f'labels/0000{i}_labelTrainIds.png' for i in (1, 2))
    write_image(kept, np.full(SIZE, 5, np.uint8))
    lost.unlink()
    (tmp_path / 'labels/00002_labelTrainIds.png.partial').write_bytes(b'cut')
    assert tool.main([str(tmp_path)]) == 0
    assert '1 files written, 1 were there' in capsys.readouterr().out
    assert read(kept) == [5] * 6
    assert read(lost) == TRAIN_IDS
    assert not list(tmp_path.rglob('*.partial'))


def test_all_pairs_of_ids():
    load_tool('dataset_converters/gta5')
    import train_ids

    assert list(train_ids.CITYSCAPES.values()) == list(range(19))
    assert train_ids.CITYSCAPES[7] == 0
    assert train_ids.CITYSCAPES[23] == 10
    assert train_ids.CITYSCAPES[33] == 18
    assert set(train_ids.SYNTHIA.values()) == set(range(19)) - {9, 14, 16}
    # The ids of the package: sky, building, road, ..., traffic light.
    names = (
        'sky building road sidewalk fence vegetation pole car sign person bicycle '
        'motorcycle light rider bus wall'
    )
    ids = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 15, 17, 19, 21)
    classes = dict(zip(names.split(), ids, strict=True))
    expected = dict(sky=10, building=2, road=0, sidewalk=1, fence=4, vegetation=8)
    expected |= dict(pole=5, car=13, sign=7, person=11, bicycle=18, motorcycle=17)
    expected |= dict(light=6, rider=12, bus=15, wall=3)
    assert {n: train_ids.SYNTHIA[i] for n, i in classes.items()} == expected


def test_synthia(tmp_path):
    write_image(tmp_path / 'RGB/0000000.png', IMAGE)
    labels = np.zeros((*SIZE, 3), np.uint16)
    labels[..., 2] = [[3, 1, 11, 22, 0, 16]] * 4  # BGR: the first channel of the file
    labels[..., 1] = 900  # ids of objects
    (tmp_path / 'GT/LABELS').mkdir(parents=True)
    path = tmp_path / 'GT/LABELS/0000000.png'
    assert cv2.imwrite(str(path), labels)
    assert load_tool('dataset_converters/synthia').main([str(tmp_path)]) == 0
    assert labels_of(build('SYNTHIA', tmp_path)[0]) == [0, 10, 18, 255, 255, 255]


def test_synthia_refuses_coloured_labels(tmp_path, capsys):
    write_image(tmp_path / 'RGB/0.png', IMAGE)
    write_image(tmp_path / 'GT/LABELS/0.png', IMAGE)
    assert load_tool('dataset_converters/synthia').main([str(tmp_path)]) == 1
    assert 'GT/LABELS/0.png holds uint8 (4, 6, 3)' in capsys.readouterr().err


def test_cityscapes(tmp_path):
    for split in ('train', 'val', 'test'):
        end = f'{split}/bonn/bonn_1'
        write_image(tmp_path / f'leftImg8bit/{end}_leftImg8bit.png', IMAGE)
        for kind in ('labelIds', 'instanceIds'):
            write_image(tmp_path / f'gtFine/{end}_gtFine_{kind}.png', IDS)
    assert load_tool('dataset_converters/cityscapes').main([str(tmp_path)]) == 0
    for split in ('train', 'val'):
        dataset = build('CityscapesXModal', tmp_path, split=split)
        assert labels_of(dataset[0]) == TRAIN_IDS
    # The test labels of the package are empty.
    assert len(list(tmp_path.rglob('*_labelTrainIds.png'))) == 2


@pytest.mark.parametrize(
    ('tool', 'name', 'labelled', 'bare'),
    [
        ('acdc', 'ACDCXModal', 'fog/val', ('fog/test', 'fog/val_ref')),
        ('dark_zurich', 'DarkZurichXModal', 'val/night', ('train/night', 'val/day')),
    ],
)
def test_packages_that_bring_train_ids(tool, name, labelled, bare, tmp_path, capsys):
    for part in (labelled, *bare):
        for number in (1, 2):
            end = f'{part}/GOPR1/GOPR1_frame_{number}'
            write_image(tmp_path / f'rgb_anon/{end}_rgb_anon.png', IMAGE)
    start = tmp_path / f'gt/{labelled}/GOPR1/GOPR1_frame_'
    write_image(Path(f'{start}1_gt_labelTrainIds.png'), np.full(SIZE, 3, np.uint8))
    converter = load_tool(f'dataset_converters/{tool}')
    assert converter.main([str(tmp_path)]) == 1
    assert f'{start}2_gt_labelIds.png' in capsys.readouterr().err
    write_image(Path(f'{start}2_gt_labelIds.png'), IDS)
    assert converter.main([str(tmp_path)]) == 0
    assert '1 files written, 1 were there' in capsys.readouterr().out
    dataset = build(name, tmp_path, split='val')
    assert [labels_of(sample) for sample in dataset] == [[3] * 6, TRAIN_IDS]


def test_what_is_missing_is_listed(tmp_path, capsys):
    tool = load_tool('dataset_converters/gta5')
    assert tool.main([str(tmp_path)]) == 1
    assert '0 images *.png' in capsys.readouterr().err
    write_gta(tmp_path)
    (tmp_path / 'images/00001.png').unlink()
    (tmp_path / 'labels/00002.png').unlink()
    assert tool.main([str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert '2 files are missing' in said
    assert f'  {tmp_path}/images/00001.png\n  {tmp_path}/labels/00002.png' in said
    with pytest.raises(SystemExit):
        tool.main([str(tmp_path), '--workers', '0'])


def test_labels_of_another_size_are_left_out(tmp_path, capsys):
    write_gta(tmp_path, 3)
    write_palette(tmp_path / 'labels/00002.png', IDS[:2])
    assert load_tool('dataset_converters/gta5').main([str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert '1 label files have another size' in said
    assert '00002' in said
    dataset = build('GTA5', tmp_path, ann_file='fitting.txt')
    assert [i['img_path'][-9:] for i in map(dataset.get_data_info, range(2))] == [
        '00001.png',
        '00003.png',
    ]
    assert len(dataset) == 2
    assert labels_of(dataset[1]) == TRAIN_IDS
