"""Every registered part of multi-task models: built from its config, run, reached."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mmengine.structures import InstanceData

from mmseg_xmodal import registry
from tests.test_models.head_cases import (
    SIZE,
    WIDTHS,
    check_training,
    feats,
    instances,
    label,
    sample,
)
from tests.test_models.helpers import without_gradient

TASKS = ('seg', 'depth', 'det')
STOCK = dict(type='FCNHead', in_channels=20, in_index=3, channels=8, num_classes=3)
NORM = dict(norm_cfg=dict(type='GN', num_groups=1))


def _normals() -> torch.Tensor:
    normals = torch.randn(3, *SIZE, generator=torch.Generator().manual_seed(0))
    return normals / normals.norm(dim=0, keepdim=True)


def _classes(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(count, (1, *SIZE), generator=generator)


# Arguments of each head, and the truth that it learns from.
TASK_HEADS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    'DepthHead': (
        dict(in_channels=WIDTHS, channels=8, **NORM),
        dict(gt_depth_map=torch.rand(1, *SIZE) * 9 + 1),
    ),
    'NormalHead': (
        dict(in_channels=WIDTHS, channels=8, **NORM),
        dict(gt_normal_map=_normals()),
    ),
    'EdgeHead': (
        dict(in_channels=WIDTHS, channels=8, **NORM),
        dict(gt_edge_map=_classes(2)),
    ),
    'ClassificationHead': (
        dict(in_channels=WIDTHS, in_index=(0, 1, 2, 3), num_classes=3),
        dict(gt_label=label(1)),
    ),
    'CenterDetectionHead': (
        dict(in_channels=WIDTHS, channels=8, num_classes=2, **NORM),
        dict(gt_instances=instances([[4, 5, 20, 30]], [1])),
    ),
    'SegTaskHead': (
        dict(head=dict(STOCK, **NORM), target='gt_cover'),
        dict(gt_cover=_classes(3)),
    ),
}
BALANCERS: dict[str, dict[str, Any]] = {
    'FixedWeights': dict(weights=dict(depth=0.5)),
    'UncertaintyWeighting': {},
    'DynamicWeightAverage': dict(window=2),
    'GeometricMeanLoss': {},
    'RandomLossWeighting': {},
    'IMTLLoss': {},
    'FAMO': dict(second_forward=False),
}
RULES = (
    'SumRule',
    'PCGrad',
    'CAGrad',
    'MGDA',
    'IMTLG',
    'AlignedMTL',
    'GradNorm',
    'UPGrad',
)
INTERACTIONS: dict[str, dict[str, Any]] = {
    'MultiScaleDistillation': dict(reduction=1),
    'InvertedPyramidAttention': dict(channels=8, stage_channels=16),
}
# tests/test_models/test_{multitask,mmdet_head,depth_losses,...}.py
ELSEWHERE = {
    'MultiTaskEncoderDecoder',
    'MMDetHead',
    'SILogLoss',
    'BerHuLoss',
    'MaskedL1Loss',
    'NormalCosineLoss',
    'BalancedBCELoss',
    'HeatmapFocalLoss',
    'ClassBalancedCrossEntropy',
}
CASES = {*TASK_HEADS, *BALANCERS, *RULES, *INTERACTIONS, *ELSEWHERE}


def build(name: str, **arguments: Any) -> Any:
    torch.manual_seed(0)
    return registry.MODELS.build(dict(type=f'mmseg_xmodal.{name}', **arguments))


@pytest.mark.parametrize('name', TASK_HEADS)
def test_task_head(name: str):
    arguments, truth = TASK_HEADS[name]
    head = build(name, **arguments)
    labelled = sample(**truth)
    assert head.has_truth(labelled)
    assert not head.has_truth(sample())
    if name == 'SegTaskHead':  # mmseg's own head reads one map
        head.loss(feats(grad=True), [labelled, labelled])['loss_ce'].backward()
        assert without_gradient(head) == []
    else:
        check_training(head, [labelled, labelled])
    head.eval()
    meta = [labelled.metainfo, labelled.metainfo]
    with torch.no_grad():
        found = head.predict(feats(), meta)
    if head.dense:
        assert found.shape == (2, head.out_channels, *SIZE)
        found = [head.finish(output, meta[0]) for output in found]
    (field,) = found[0]
    assert field == head.target.replace('gt_', 'pred_')
    assert not isinstance(found[0][field], InstanceData) or len(found) == 2


@pytest.mark.parametrize('name', BALANCERS)
def test_balancer(name: str):
    balancer = build(name, tasks=TASKS, **BALANCERS[name])
    losses = {
        task: torch.tensor(float(i), requires_grad=True)
        for i, task in enumerate(TASKS, 1)
    }
    weighted = balancer(losses)
    assert set(weighted) == set(TASKS)
    total = sum(weighted.values())
    assert torch.isfinite(total)
    total.backward()
    assert all(loss.grad is not None and loss.grad > 0 for loss in losses.values())
    assert without_gradient(balancer) == []
    assert set(balancer({'seg': torch.tensor(1.0)})) == {'seg'}


@pytest.mark.parametrize('name', RULES)
def test_gradient_rule(name: str):
    rule = build(name)
    rule.bind(TASKS)
    grads = torch.tensor([[1.0, 0.2, 0.0], [-0.5, 1.0, 0.3], [0.1, 0.4, 2.0]])
    weights = rule(grads @ grads.T, torch.tensor([1.0, 2.0, 3.0]))
    assert weights.shape == (3,)
    assert weights.dtype == torch.float64
    assert torch.isfinite(weights).all()
    # The update goes down at least on the sum of the losses.
    assert (weights.float() @ grads) @ grads.sum(0) > 0


@pytest.mark.parametrize('name', INTERACTIONS)
def test_interaction(name: str):
    tasks = dict(seg=3, depth=1)
    module = build(name, in_channels=WIDTHS, tasks=tasks, **INTERACTIONS[name])
    maps = feats(grad=True)
    pyramids, initial = module(maps)
    assert set(pyramids) == set(tasks)
    for task, channels in tasks.items():
        widths = [x.shape[1] for x in pyramids[task]]
        assert widths == list(module.out_channels)
        assert all(x.shape[1] == channels for x in initial[task])
    torch.manual_seed(1)
    every = [x for part in (pyramids, initial) for own in part.values() for x in own]
    sum((x * torch.randn_like(x)).sum() for x in every).backward()
    assert all((x.grad != 0).any() for x in maps)
    assert without_gradient(module) == []
