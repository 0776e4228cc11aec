from __future__ import annotations

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData, LabelData, PixelData

from mmseg_xmodal.datasets.transforms import PackXModalInputs

from .helpers import load_arrays, run

MODALITIES = dict(rgb=dict(channels=3, order='rgb'), depth=dict(channels=1))


@pytest.fixture
def sample(tmp_path):
    arrays = dict(
        rgb=np.arange(60, dtype=np.uint8).reshape(4, 5, 3),
        depth=np.ones((4, 5), np.float32),
    )
    return load_arrays(tmp_path, MODALITIES, arrays, np.ones((4, 5), np.uint8))


def test_inputs_are_the_stack(sample):
    packed = PackXModalInputs()(sample)
    assert packed['inputs'].dtype == torch.float32
    assert np.array_equal(packed['inputs'].numpy(), sample['img'].transpose(2, 0, 1))
    assert packed['data_samples'].gt_sem_seg.data.dtype == torch.int64


def test_stock_meta_keys_stay(sample):
    sample = run(sample, [dict(type='RandomFlip', prob=1.0)])
    sample['town'] = 'Ulm'
    sample['counts'] = [np.float32(1.5), 2]
    data_sample = PackXModalInputs(extra_meta_keys=('town', 'counts', 'absent'))(
        sample
    )['data_samples']
    assert data_sample.flip is True
    assert data_sample.flip_direction == 'horizontal'
    assert data_sample.town == 'Ulm'
    assert data_sample.counts == (1.5, 2)
    assert 'absent' not in data_sample
    for value in data_sample.metainfo.values():
        assert isinstance(value, str | bool | int | float | tuple | type(None))


def test_a_tensor_is_no_metainfo(sample):
    sample['pose'] = torch.eye(3)
    with pytest.raises(TypeError, match="'pose' is a Tensor.*raster_keys"):
        PackXModalInputs(extra_meta_keys=('pose',))(sample)


def test_kinds_of_truth(sample):
    sample['normals'] = np.zeros((4, 5, 3), np.float32)
    sample['gt_bboxes'] = [[0, 0, 2, 2], [1, 1, 3, 3]]
    sample['gt_bboxes_labels'] = [4, 5]
    sample['gt_img_label'] = 2
    sample['audio'] = np.zeros(16, np.float32)
    packed = PackXModalInputs(raster_keys=['normals'])(sample)['data_samples']
    assert isinstance(packed.normals, PixelData)
    assert packed.normals.data.shape == (3, 4, 5)
    assert isinstance(packed.gt_instances, InstanceData)
    assert packed.gt_instances.bboxes.shape == (2, 4)
    assert packed.gt_instances.labels.tolist() == [4, 5]
    assert isinstance(packed.gt_label, LabelData)
    assert packed.gt_label.label.tolist() == [2]
    moved = packed.to('meta')
    assert moved.audio.device.type == 'meta'


def test_no_boxes_is_no_object(sample):
    sample['gt_bboxes'] = []
    packed = PackXModalInputs()(sample)['data_samples']
    assert packed.gt_instances.bboxes.shape == (0, 4)


def test_img_shape_after_a_rotation_that_grows_the_image(sample):
    rotate = dict(type='RandomRotate', prob=1.0, degree=(89.9, 90), auto_bound=True)
    packed = PackXModalInputs()(run(sample, [rotate]))
    assert packed['data_samples'].img_shape == packed['inputs'].shape[-2:]
    assert packed['data_samples'].ori_shape == (4, 5)


def test_an_unlabelled_sample(sample):
    del sample['gt_seg_map']
    assert 'gt_sem_seg' not in PackXModalInputs()(sample)['data_samples']


def test_labels_of_the_original_size_pass(sample):
    """In test pipelines annotations are loaded after Resize."""
    labels = sample.pop('gt_seg_map')
    sample['seg_fields'] = []
    sample = run(sample, [dict(type='Resize', scale=(10, 8))])
    sample['gt_seg_map'] = labels
    packed = PackXModalInputs()(sample)
    assert packed['data_samples'].gt_sem_seg.shape == (4, 5)
    assert packed['inputs'].shape[-2:] == (8, 10)


@pytest.mark.parametrize('shape', [(4, 4), (4, 5, 3)])
def test_labels_of_another_shape_are_refused(sample, shape):
    sample['gt_seg_map'] = np.zeros(shape, np.uint8)
    with pytest.raises(ValueError, match=r'labels\.png.*one label per pixel'):
        PackXModalInputs()(sample)
