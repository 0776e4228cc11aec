"""The data set of the game engine, and the configs of multi-task data."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config

from mmseg_xmodal.datasets import ViZDoomMultiTaskDataset
from mmseg_xmodal.registry import DATASETS

from .multitask_samples import MODALITIES

LOADING = [
    dict(type='mmseg_xmodal.LoadModalities'),
    dict(type='LoadAnnotations'),
    dict(type='mmseg_xmodal.LoadTargets'),
]
PACK = dict(type='mmseg_xmodal.PackXModalInputs')


@pytest.fixture
def doom(tmp_path):
    """Frames as the converter lays them out, of two kinds of monster."""
    rng = np.random.default_rng(0)
    for split in ('train', 'val', 'test'):
        for folder in ('rgb', 'depth', 'labels'):
            (tmp_path / folder / split).mkdir(parents=True)
        for stem in ('m_0', 'm_1'):
            size = (240, 320)
            image = rng.integers(0, 255, (*size, 3), dtype=np.uint8)
            labels = rng.integers(0, 3, size, dtype=np.uint8)
            labels[20:40, 30:60] = 6
            images = dict(rgb=image, depth=image[..., 0], labels=labels)
            for folder, array in images.items():
                cv2.imwrite(str(tmp_path / folder / split / f'{stem}.png'), array)
        ids = dict(enumerate(ViZDoomMultiTaskDataset.OBJECTS, 6))
        row = dict(id=1, image_id=1, bbox=[30, 20, 30, 20], category_id=6, iscrowd=0)
        imp, far = (
            row | dict(area=600, type='DoomImp'),
            row | dict(area=2, type='Demon'),
        )
        content = dict(
            images=[
                dict(id=i + 1, file_name=f'm_{i}.png', width=320, height=240)
                for i in range(2)
            ],
            annotations=[imp, far],
            categories=[dict(id=i, name=name) for i, name in ids.items()],
        )
        (tmp_path / f'boxes_{split}.json').write_text(json.dumps(content))
    return tmp_path


def test_vizdoom(doom):
    cfg = dict(type='mmseg_xmodal.ViZDoomMultiTaskDataset', data_root=str(doom))
    cfg.update(split='val', modalities=dict(rgb=MODALITIES['rgb']))
    sample = DATASETS.build(cfg | dict(pipeline=[*LOADING, PACK]))[0]['data_samples']
    assert set(sample.task_valid) == {'det', 'depth', 'cls'}
    assert sample.gt_instances.labels.tolist() == [0]
    assert len(sample.ignored_instances) == 1
    names = ViZDoomMultiTaskDataset.MONSTERS
    label = dict(zip(names, sample.gt_label.label.tolist(), strict=True))
    assert {k: v for k, v in label.items() if v} == dict(DoomImp=1, Demon=-1)
    depth = sample.gt_depth_map.data
    stored = cv2.imread(str(doom / 'depth/val/m_0.png'), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(depth[0].isnan(), stored == 0)
    # The numbers of configs/_base_/modalities/vizdoom.py.
    assert np.nanmax(depth) == pytest.approx(stored.max() * 0.22390625 + 0.4484375)
    only = DATASETS.build(cfg | dict(targets=['depth']))
    assert list(only[0]['targets']) == ['depth']
    with pytest.raises(ValueError, match=r"\['flow'\].*\['det', 'depth', 'cls'\]"):
        DATASETS.build(cfg | dict(targets=['flow']))


@pytest.fixture
def water(tmp_path):
    rng = np.random.default_rng(0)
    size = (128, 128)
    for split in ('train', 'val', 'test'):
        for folder, high, dtype, shape in (
            ('rgb', 255, np.uint8, (*size, 3)),
            ('nir', 4000, np.uint16, size),
            ('labels_water', 2, np.uint8, size),
            ('labels_landcover', 7, np.uint8, size),
            ('swir', 4000, np.int16, (*size, 2)),
            ('dem', 900, np.float32, size),
        ):
            (tmp_path / folder / split).mkdir(parents=True)
            array = rng.integers(0, high, shape).astype(dtype)
            path = tmp_path / folder / split / '000'
            if folder in ('swir', 'dem'):
                np.save(path, array)
            else:
                cv2.imwrite(f'{path}.png', array)
    return tmp_path


def write_maps(root, size, stem, folders):
    """One file per folder; ``number`` files are npy."""
    rng = np.random.default_rng(0)
    for folder, (suffix, high, shape) in folders.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        array = rng.integers(0, high, (*size, *shape))
        path = root / folder / f'{stem}{suffix}'
        if suffix == '.npy':
            np.save(path, array.astype(np.float32) + 0.5)
        else:
            cv2.imwrite(str(path), array.astype(np.uint8))


@pytest.fixture
def nyu(tmp_path):
    folders = dict(
        images=('.png', 255, (3,)),
        segmentation=('.png', 41, ()),
        depth=('.npy', 9, ()),
        normals=('.png', 255, (3,)),
        edge=('.png', 2, ()),
    )
    write_maps(tmp_path, (60, 80), '1', folders)
    (tmp_path / 'gt_sets').mkdir()
    for split in ('train', 'val'):
        (tmp_path / f'gt_sets/{split}.txt').write_text('1\n')
    return tmp_path


@pytest.fixture
def pascal(tmp_path):
    maps = dict(semseg=21, human_parts=7, saliency=2, edges=2)
    folders = {f'multitask/{n}': ('.png', high, ()) for n, high in maps.items()}
    folders['multitask/normals'] = ('.png', 255, (3,))
    folders['JPEGImages'] = ('.jpg', 255, (3,))
    write_maps(tmp_path, (60, 80), '1', folders)
    (tmp_path / 'ImageSets/Context').mkdir(parents=True)
    for split in ('train', 'val'):
        (tmp_path / f'ImageSets/Context/{split}.txt').write_text('1\n')
    return tmp_path


# Config, who writes its data, and the fields of the truth.
CONFIGS = dict(
    vizdoom_multitask=('doom', {'gt_instances', 'gt_depth_map', 'gt_label'}),
    water12_multitask=('water', {'gt_landcover', 'gt_elevation'}),
    nyudv2_mt=('nyu', {'gt_depth_map', 'gt_normal_map', 'gt_edge_map'}),
    pascal_context_mt=(
        'pascal',
        {'gt_human_parts', 'gt_saliency', 'gt_normal_map', 'gt_edge_map'},
    ),
)


def test_every_config_of_multi_task_data_is_tried():
    found = Path('configs/_base_/datasets').glob('*.py')
    marks = ('LoadTargets', 'multitask_crop')
    multi = {p.stem for p in found if any(m in p.read_text() for m in marks)}
    assert multi == set(CONFIGS)


@pytest.mark.parametrize('name', CONFIGS)
def test_configs_load_their_data(name, request):
    writer, fields = CONFIGS[name]
    fields = {'gt_sem_seg', *fields}
    root = request.getfixturevalue(writer)
    cfg = Config.fromfile(f'configs/_base_/datasets/{name}.py')
    for mode in ('train', 'val', 'test'):
        data = cfg[f'{mode}_dataloader'].dataset
        data.data_root = str(root)
        dataset = DATASETS.build(data)
        for seed in range(3):
            np.random.seed(seed)  # noqa: NPY002
            packed = dataset[0]
            sample = packed['data_samples']
            assert set(sample.keys()) >= fields
            assert packed['inputs'].shape[-2:] == sample.gt_sem_seg.shape
    data.pipeline = cfg.tta_pipeline
    views = DATASETS.build(data)[0]
    assert len(views['inputs']) > 1
    for sample in views['data_samples']:
        # The truth has the size of the files, whatever the view.
        assert sample.gt_sem_seg.shape == sample.ori_shape
        assert set(sample.keys()) >= fields
