"""The named data sets, each on a few files laid out as its package has them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from mmseg_xmodal.registry import DATASETS

NAMES = {
    'NYUDepthV2Dataset': 40,
    'SUNRGBDDataset': 37,
    'MFNetDataset': 9,
    'PST900Dataset': 5,
    'DELIVERDataset': 25,
    'MCubeSDataset': 20,
}
COLOUR = dict(channels=3, order='rgb')
GREY = dict(channels=1, dtype='uint8')


def write(path: Path, value: int = 1, channels: int = 1, size=(4, 6)) -> None:
    """An image whose channels hold value, value + 1, ... in the order of the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.full((*size, channels), value, np.uint8) + np.arange(channels)
    image = image.astype(np.uint8)
    if channels >= 3:
        image = image[..., [2, 1, 0, 3][:channels]]
    assert cv2.imwrite(str(path), image)


def build(name: str, root: Path, modalities, **kwargs):
    kwargs = dict(data_root=str(root), modalities=modalities, **kwargs)
    return DATASETS.build(dict(type=f'mmseg_xmodal.{name}', **kwargs))


def loading(labels: str = 'LoadAnnotations', **kwargs) -> list[dict]:
    load = dict(type='mmseg_xmodal.LoadModalities', **kwargs)
    return [load, dict(type=labels), dict(type='mmseg_xmodal.PackXModalInputs')]


def labels_of(sample) -> np.ndarray:
    return sample['data_samples'].gt_sem_seg.data.numpy()


@pytest.mark.parametrize('name', NAMES)
def test_classes_and_colours(name):
    info = DATASETS.get(f'mmseg_xmodal.{name}').METAINFO
    assert len(info['classes']) == len(set(info['classes'])) == NAMES[name]
    colours = [tuple(colour) for colour in info['palette']]
    assert len(colours) == len(set(colours)) == NAMES[name]
    assert all(0 <= part <= 255 for colour in colours for part in colour)


# The lines of SA-Gate and CMX, of DELIVER's code, and of DFormer.
@pytest.mark.parametrize('line', ['12', '12 7', 'RGB/12.jpg Label/12.png'])
def test_nyudv2_lists_and_labels(tmp_path, line):
    for stem in ('11', '12'):
        write(tmp_path / f'RGB/{stem}.jpg', 100, 3)
        write(tmp_path / f'HHA/{stem}.jpg', 50, 3)
        write(tmp_path / f'Label/{stem}.png', int(stem))
    labels = np.array([[0, 1, 40, 255]], np.uint8).repeat(4, 0)
    cv2.imwrite(str(tmp_path / 'Label/12.png'), np.pad(labels, ((0, 0), (0, 2))))
    (tmp_path / 'test.txt').write_text(f'{line}\n\n')
    dataset = build(
        'NYUDepthV2Dataset',
        tmp_path,
        dict(rgb=COLOUR, hha=COLOUR),
        ann_file='test.txt',
        pipeline=loading(),
    )
    assert len(dataset) == 1
    assert dataset.get_data_info(0)['modality_paths'] == dict(
        rgb=f'{tmp_path}/RGB/12.jpg', hha=f'{tmp_path}/HHA/12.jpg'
    )
    # Void and 255 are ignored; the others count from 0.
    assert labels_of(dataset[0])[0, 0].tolist() == [255, 0, 39, 255, 255, 255]


def test_sunrgbd_depth_in_grey_and_in_rgba(tmp_path):
    for stem, channels in (('a', 1), ('b', 4)):
        write(tmp_path / f'RGB/{stem}.jpg', 100, 3)
        write(tmp_path / f'Depth/{stem}.png', 50, channels)
        write(tmp_path / f'labels/{stem}.png', 37)
    (tmp_path / 'train.txt').write_text('RGB/a.jpg labels/a.png\nRGB/b.jpg x\n')
    dataset = build(
        'SUNRGBDDataset',
        tmp_path,
        dict(rgb=COLOUR, depth=dict(**GREY, bands=[0])),
        ann_file='train.txt',
        pipeline=loading(),
    )
    for sample in (dataset[0], dataset[1]):
        assert (sample['inputs'][3] == 50).all()
        assert (labels_of(sample) == 36).all()


def test_mfnet_splits_the_four_channels_of_the_files(tmp_path):
    write(tmp_path / 'images/00001D.png', 10, 4)
    write(tmp_path / 'labels/00001D.png', 0)
    (tmp_path / 'test.txt').write_text('00001D\n')
    dataset = build(
        'MFNetDataset',
        tmp_path,
        dict(
            rgb=dict(**COLOUR, bands=[0, 1, 2]),
            thermal=dict(channels=3, dtype='uint8', bands=[3, 3, 3]),
        ),
        ann_file='test.txt',
        pipeline=loading(),
    )
    sample = dataset[0]
    # Colour lies in the stack as BGR.
    assert sample['inputs'][:, 0, 0].tolist() == [12, 11, 10, 13, 13, 13]
    # Unlabelled is a class, not ignored.
    assert (labels_of(sample) == 0).all()


def test_mfnet_in_two_folders(tmp_path):
    for folder in ('rgb', 'ther'):
        write(tmp_path / folder / '00001D.jpg', 10, 3 if folder == 'rgb' else 1)
    write(tmp_path / 'labels/00001D.png', 3)
    dataset = build(
        'MFNetDataset',
        tmp_path,
        dict(rgb=COLOUR, thermal=dict(channels=3, dtype='uint8', bands=[0, 0, 0])),
        data_prefix=dict(rgb='rgb', thermal='ther'),
        suffixes=dict(rgb='.jpg', thermal='.jpg'),
        pipeline=loading(),
    )
    assert dataset[0]['inputs'].shape == (6, 4, 6)


def test_pst900(tmp_path):
    for folder in ('rgb', 'thermal', 'labels'):
        write(tmp_path / 'train' / folder / '1.png', 4, 3 if folder == 'rgb' else 1)
    dataset = build('PST900Dataset', tmp_path / 'train', dict(rgb=COLOUR, thermal=GREY))
    info = dataset[0]
    assert info['seg_map_path'] == f'{tmp_path}/train/labels/1.png'
    assert info['modality_paths']['thermal'] == f'{tmp_path}/train/thermal/1.png'
    assert info['reduce_zero_label'] is False


@pytest.fixture(scope='module')
def deliver_root(tmp_path_factory):
    root = tmp_path_factory.mktemp('DELIVER')
    kinds = dict(img='rgb', hha='depth', depth='depth', event='event', lidar='lidar')
    kinds['semantic'] = 'semantic'
    for condition in ('cloud', 'sun'):
        for split in ('train', 'val'):
            for place in ('MAP_1_point2', 'MAP_1_point2_lidarjitter'):
                for folder, kind in kinds.items():
                    name = f'{condition}/{split}/{place}/01_{kind}_front.png'
                    # Events are smaller, labels stand in the first of four channels.
                    size = (2, 3) if kind == 'event' else (4, 6)
                    write(root / folder / name, 7, 4, size)
    return root


DELIVER = dict(
    rgb=dict(**COLOUR, bands=[0, 1, 2]),
    hha=dict(channels=3, dtype='uint8', bands=[0, 1, 2]),
    event=dict(channels=3, dtype='uint8', bands=[0, 1, 2]),
)


def test_deliver_pairs_siblings(deliver_root):
    dataset = build('DELIVERDataset', deliver_root, DELIVER, split='val')
    assert len(dataset) == 4
    stem = 'cloud/val/MAP_1_point2/01'
    assert dataset[0]['modality_paths'] == dict(
        rgb=f'{deliver_root}/img/{stem}_rgb_front.png',
        hha=f'{deliver_root}/hha/{stem}_depth_front.png',
        event=f'{deliver_root}/event/{stem}_event_front.png',
    )
    semantic = f'{deliver_root}/semantic/{stem}_semantic_front.png'
    assert dataset[0]['seg_map_path'] == semantic


def test_deliver_raw_depth_is_another_modality(deliver_root):
    modalities = dict(rgb=DELIVER['rgb'], depth=dict(**GREY, bands=[0]))
    info = build('DELIVERDataset', deliver_root, modalities)[0]
    name = 'cloud/train/MAP_1_point2/01_depth_front.png'
    assert info['modality_paths']['depth'] == f'{deliver_root}/depth/{name}'


@pytest.mark.parametrize(
    ('options', 'count'),
    [
        (dict(split='train'), 4),
        (dict(split='val', conditions=['sun']), 2),
        (dict(split='val', failure='lidarjitter'), 2),
        (dict(split='val', conditions=['sun'], failure='lidarjitter'), 1),
    ],
)
def test_deliver_subsets(deliver_root, options, count):
    dataset = build('DELIVERDataset', deliver_root, DELIVER, **options)
    assert len(dataset) == count
    wanted = options.get('conditions', ['cloud', 'sun'])
    for info in dataset:
        parts = info['img_path'].removeprefix(str(deliver_root)).split('/')
        assert parts[2] in wanted
        assert parts[3] == options['split']
        assert options.get('failure', '') in parts[4]


def test_deliver_reads_labels_of_one_channel_and_smaller_events(deliver_root):
    dataset = build(
        'DELIVERDataset',
        deliver_root,
        DELIVER,
        pipeline=loading('mmseg_xmodal.LoadLabels', resize_to='rgb'),
    )
    sample = dataset[0]
    assert sample['inputs'].shape == (9, 4, 6)
    assert (labels_of(sample) == 6).all()


@pytest.mark.parametrize(
    ('wrong', 'pattern'),
    [
        (dict(split='training'), "split is 'training', expected from"),
        (dict(conditions='sun'), "conditions is 'sun', expected from"),
        (dict(conditions=['snow']), r"conditions is \['snow'\]"),
        (dict(conditions=[]), r'conditions is \[\]'),
        (dict(failure='night'), "failure is 'night'"),
    ],
)
def test_deliver_errors(deliver_root, wrong, pattern):
    with pytest.raises(ValueError, match=pattern):
        build('DELIVERDataset', deliver_root, DELIVER, **wrong)


def test_mcubes(tmp_path):
    write(tmp_path / 'polL_color/a_1.png', 90, 3)
    write(tmp_path / 'NIR_warped/a_1.png', 80)
    write(tmp_path / 'GT/a_1.png', 19)
    for i, kind in enumerate(('aolp_sin', 'aolp_cos', 'dolp')):
        (tmp_path / f'polL_{kind}').mkdir()
        np.save(tmp_path / f'polL_{kind}' / 'a_1.npy', np.full((4, 6), i / 4))
    (tmp_path / 'list_folder').mkdir()
    (tmp_path / 'list_folder/train.txt').write_text('a_1\n')
    modalities = [
        dict(name='rgb', **COLOUR),
        dict(name='aolp_sin', channels=1),
        dict(name='aolp_cos', channels=1),
        dict(name='dolp', channels=3, bands=[0, 0, 0]),
        dict(name='nir', **GREY),
    ]
    dataset = build(
        'MCubeSDataset',
        tmp_path,
        modalities,
        ann_file='list_folder/train.txt',
        pipeline=loading(),
    )
    sample = dataset[0]
    values = sample['inputs'][:9, 0, 0].tolist()
    assert values == [92, 91, 90, 0, 0.25, 0.5, 0.5, 0.5, 80]
    assert (labels_of(sample) == 19).all()


def test_folders_of_a_config_replace_those_of_the_data_set(tmp_path):
    for folder in ('colour', 'HHA'):
        write(tmp_path / folder / '1.png', 9, 3)
    dataset = build(
        'NYUDepthV2Dataset',
        tmp_path,
        dict(rgb=COLOUR, hha=COLOUR),
        data_prefix=dict(rgb='colour', seg_map_path=None),
        suffixes=dict(rgb='.png', hha='.png'),
        reduce_zero_label=False,
    )
    assert 'seg_map_path' not in dataset[0]
    assert dataset[0]['modality_paths'] == dict(
        rgb=f'{tmp_path}/colour/1.png', hha=f'{tmp_path}/HHA/1.png'
    )
    assert dataset[0]['reduce_zero_label'] is False
