"""Targets in the data sample, and their padding in the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData, LabelData, PixelData

from mmseg_xmodal.datasets.transforms import PackXModalInputs
from mmseg_xmodal.registry import MODELS

from .multitask_samples import MODALITIES, TARGETS, make_sample


def test_packing():
    sample = make_sample((8, 9))
    before = {k: v for k, v in sample.items() if k.startswith('gt_')}
    packed = PackXModalInputs()(sample)['data_samples']
    dtypes = dict(
        gt_depth_map=torch.float32,
        gt_elevation=torch.float32,
        gt_normal_map=torch.float32,
        gt_edge_map=torch.uint8,
        gt_landcover=torch.int64,
    )
    for key, dtype in dtypes.items():
        field = packed.get(key)
        assert isinstance(field, PixelData)
        assert field.data.dtype == dtype
        assert field.data.shape == (3 if key == 'gt_normal_map' else 1, 8, 9)
        back = field.data.numpy().transpose(1, 2, 0)
        np.testing.assert_array_equal(back, np.atleast_3d(before[key]))
    assert packed.gt_sem_seg.data.dtype == torch.int64
    assert packed.task_valid == dict.fromkeys(TARGETS, True)
    boxes, ignored = packed.gt_instances, packed.ignored_instances
    assert isinstance(ignored, InstanceData)
    assert boxes.labels.tolist() == [0, 1, 3, 4]
    np.testing.assert_array_equal(boxes.bboxes, before['gt_bboxes'][[0, 1, 3, 4]])
    np.testing.assert_array_equal(ignored.bboxes, before['gt_bboxes'][[2]])
    assert isinstance(packed.gt_label, LabelData)
    assert packed.gt_label.label.tolist() == [1, -1]
    assert packed.gt_label.label.dtype == torch.float32


def test_no_boxes_and_one_image_label():
    sample = make_sample((8, 9))
    for key in ('gt_bboxes', 'gt_bboxes_labels', 'gt_ignore_flags'):
        sample[key] = sample[key][:0]
    sample['gt_img_label'] = np.array(1)
    packed = PackXModalInputs()(sample)['data_samples']
    assert packed.gt_instances.bboxes.shape == (0, 4)
    assert packed.ignored_instances.bboxes.shape == (0, 4)
    assert packed.gt_label.label.tolist() == [1]
    assert packed.gt_label.label.dtype == torch.int64


def wrong_id(sample):
    sample['gt_landcover'][0, 0] = 7
    sample['targets'] = dict(landcover='lc.png')


def wrong_size(sample):
    sample['gt_elevation'] = sample['gt_elevation'][:4]


def wrong_count(sample):
    sample['gt_bboxes'] = sample['gt_bboxes'][:3]


@pytest.mark.parametrize(
    ('spoil', 'pattern'),
    [
        (wrong_id, r"gt_landcover of 'lc.png'.*\[7\].*0 to 6.*'classes'"),
        (wrong_size, r"gt_elevation of 'sample.png'.*\(4, 9\).*XModalRandomCrop"),
        (wrong_count, r"'sample.png' has 3 gt_bboxes, 5 gt_ignore_flags and 5"),
    ],
)
def test_packing_refuses(spoil, pattern):
    sample = make_sample((8, 9))
    spoil(sample)
    with pytest.raises(ValueError, match=pattern):
        PackXModalInputs()(sample)


def test_padding_is_unknown():
    """Float truth gets NaN, the others 255; boxes stay."""
    packed = PackXModalInputs()(make_sample((8, 9)))
    preprocessor = MODELS.build(
        dict(
            type='mmseg_xmodal.ModalityPreprocessor',
            modalities=MODALITIES,
            size=(16, 16),
        )
    )
    boxes = packed['data_samples'].gt_instances.bboxes.clone()
    batch = dict(inputs=[packed['inputs']], data_samples=[packed['data_samples']])
    sample = preprocessor(batch, training=True)['data_samples'][0]
    for key in ('gt_depth_map', 'gt_elevation', 'gt_normal_map'):
        data = sample.get(key).data
        assert data.shape[1:] == (16, 16)
        assert data[:, 8:].isnan().all()
        assert data[:, :, 9:].isnan().all()
        assert not data[:, :8, :9].isnan().all()
    for key in ('gt_sem_seg', 'gt_landcover', 'gt_edge_map'):
        data = sample.get(key).data
        assert (data[:, 8:] == 255).all()
        assert (data[:, :, 9:] == 255).all()
    assert sample.gt_edge_map.data.dtype == torch.uint8
    assert torch.equal(sample.gt_instances.bboxes, boxes)
