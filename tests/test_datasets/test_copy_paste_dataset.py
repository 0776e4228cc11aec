"""Copy-paste on a data set: resumable, the same in any process."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from mmengine.dataset import pseudo_collate
from torch.utils.data import DataLoader

from mmseg_xmodal.datasets.samplers import SeededIndex
from mmseg_xmodal.registry import DATASETS

from .multitask_samples import MODALITIES, TARGETS, write_split


def dataset_of(root, **kwargs):
    loading = [
        dict(type='mmseg_xmodal.LoadModalities'),
        dict(type='LoadAnnotations'),
        dict(type='mmseg_xmodal.LoadTargets'),
    ]
    mix = dict(
        type='mmseg_xmodal.CopyPaste',
        classes=[1, 2, 3],
        pipeline=[*loading, dict(type='mmseg_xmodal.XModalRandomFlip', prob=0.5)],
        prob=0.9,
        min_pixels=2,
        nearer='thermal',
        max_shift=0.3,
    )
    pack = dict(type='mmseg_xmodal.PackXModalInputs', extra_meta_keys=['pasted_from'])
    return DATASETS.build(
        dict(
            type='mmseg_xmodal.MultiTaskDataset',
            data_root=str(root),
            split='train',
            modalities=MODALITIES,
            suffixes=dict(thermal='.npy'),
            targets=TARGETS,
            data_prefix=dict(seg_map_path='labels'),
            metainfo=dict(classes=tuple('abcde')),
            pipeline=[*loading, mix, pack],
        )
        | kwargs
    )


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp('copy_paste')
    write_split(folder, stems=tuple('abcd'))
    return folder


def assert_same(one, other):
    assert np.array_equal(one['inputs'], other['inputs'])
    one, other = one['data_samples'], other['data_samples']
    assert one.pasted_from == other.pasted_from
    for key in ('gt_sem_seg', 'gt_depth_map', 'gt_normal_map'):
        equal = np.array_equal(one.get(key).data, other.get(key).data, equal_nan=True)
        assert equal, key
    assert np.array_equal(one.gt_instances.bboxes, other.gt_instances.bboxes)


def test_the_result_depends_on_the_seed_alone(root):
    """Not on what was loaded before, nor on the process that loads it."""
    indices = [SeededIndex(i % 4, 100 + i) for i in range(8)]
    fresh, used = dataset_of(root), dataset_of(root)
    for index in (3, 2, 1):
        used[index]
    np.random.seed(5)  # noqa: NPY002
    want = [fresh[i] for i in indices]
    got = [used[i] for i in reversed(indices)][::-1]
    loader = DataLoader(
        dataset_of(root), sampler=indices, num_workers=2, collate_fn=pseudo_collate
    )
    for one, two, batch in zip(want, got, loader, strict=True):
        assert_same(one, two)
        assert_same(one, {key: values[0] for key, values in batch.items()})
    sources = {w['data_samples'].pasted_from for w in want}
    assert len(sources - {None}) > 1
    # The second round has other seeds.
    pairs = zip(want[:4], want[4:], strict=True)
    assert any(not np.array_equal(a['inputs'], b['inputs']) for a, b in pairs)


def test_a_copy_of_a_sample_is_no_copy_of_the_data_set(root):
    info = dataset_of(root).get_data_info(0)
    assert copy.deepcopy(info)['sample_source'] is info['sample_source']
    assert len(info['sample_source']) == 4
    assert info['sample_source'].classes == tuple('abcde')
