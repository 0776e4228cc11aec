"""Every head of the package in one multi-task model."""

from __future__ import annotations

import copy

import pytest
import torch
from mmengine.optim import OptimWrapper
from mmengine.structures import PixelData
from torch import nn

from mmseg_xmodal.engine.optimizers import GradientRuleOptimWrapper

from .helpers import rand
from .multitask_toys import SEG, WIDTHS, toy_inputs, toy_model, toy_samples

LEVELS = dict(in_channels=list(WIDTHS), channels=8)
REAL_HEADS = dict(
    depth=dict(type='mmseg_xmodal.DepthHead', **LEVELS),
    normal=dict(type='mmseg_xmodal.NormalHead', **LEVELS),
    edge=dict(type='mmseg_xmodal.EdgeHead', **LEVELS),
    cover=SEG | dict(num_classes=4),
    det=dict(type='mmseg_xmodal.CenterDetectionHead', num_classes=2, **LEVELS),
    cls=dict(type='mmseg_xmodal.ClassificationHead', num_classes=3, in_channels=[32]),
)
DISTILLATION = dict(
    type='mmseg_xmodal.MultiScaleDistillation', in_channels=list(WIDTHS)
)


def real_samples() -> list:
    """Two samples with all fields of truth, the second without boxes."""
    samples = toy_samples(size=(64, 64))
    for i, sample in enumerate(samples):
        normal = nn.functional.normalize(rand(3, 64, 64, seed=i), dim=0)
        sample.gt_depth_map = PixelData(data=rand(1, 64, 64, seed=i).abs() + 1)
        sample.gt_normal_map = PixelData(data=normal)
        sample.gt_edge_map = PixelData(data=(normal[:1] > 0.5).to(torch.uint8))
    samples[1].set_metainfo(dict(task_valid=dict(det=False)))
    return samples


@pytest.mark.parametrize('rule', [None, 'PCGrad'])
@pytest.mark.parametrize('interaction', [None, DISTILLATION])
def test_all_heads_together(interaction, rule):
    model = toy_model(
        task_heads=REAL_HEADS,
        interaction=interaction,
        balancer=dict(type='mmseg_xmodal.UncertaintyWeighting'),
        on_bad_loss='skip' if rule else 'raise',
    )
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    if rule is None:
        wrapper = OptimWrapper(optimizer)
    else:
        wrapper = GradientRuleOptimWrapper(
            optimizer=optimizer, rule=dict(type=f'mmseg_xmodal.{rule}')
        )
    before = copy.deepcopy(dict(model.named_parameters()))
    data = dict(inputs=toy_inputs(size=(64, 64)), data_samples=real_samples())
    logged = model.train_step(data, wrapper)
    assert {name.split('.')[0] for name in logged} == {'loss', 'seg', *REAL_HEADS}
    assert all(value.isfinite() for value in logged.values())
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    parts = ['backbone', 'decode_head', *(f'task_heads.{t}' for t in REAL_HEADS)]
    parts += ['balancer', *(['interaction'] if interaction else [])]
    assert [p for p in parts if not any(n.startswith(p) for n in moved)] == []


@pytest.mark.parametrize('interaction', [None, DISTILLATION])
@pytest.mark.parametrize('mode', ['whole', 'slide'])
def test_all_heads_predict(interaction, mode):
    test_cfg = dict(mode=mode, crop_size=(64, 64), stride=(32, 32))
    model = toy_model(
        task_heads=REAL_HEADS, interaction=interaction, test_cfg=test_cfg
    ).eval()
    samples = toy_samples(size=(96, 64))
    meta = dict(ori_shape=(48, 32), scale_factor=(2.0, 2.0), flip=True)
    for sample in samples:
        sample.set_metainfo(meta | dict(flip_direction='horizontal'))
    with torch.no_grad():
        samples = model.predict(toy_inputs(size=(96, 64)), samples)
    for sample in samples:
        shapes = dict(sem_seg=1, depth_map=1, normal_map=3, edge_map=1, cover=1)
        for name, channels in shapes.items():
            assert sample.get(f'pred_{name}').data.shape == (channels, 48, 32), name
        length = sample.pred_normal_map.data.norm(dim=0)
        torch.testing.assert_close(length, torch.ones(48, 32))
        assert sample.pred_label.score.shape == (3,)
        boxes = sample.pred_instances.bboxes
        assert len(boxes)
        assert (boxes <= boxes.new_tensor([32, 48, 32, 48])).all()
