"""Optimisers that know the parts of a segmentor, on the student of an adaptation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import Tensor, nn

from mmseg_xmodal.engine import StudentOptimWrapperConstructor
from mmseg_xmodal.registry import MODELS
from tests.test_models.adaptation_toys import student_cfg, wrapper

CFG = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
    constructor='mmseg_xmodal.StudentOptimWrapperConstructor',
    student_constructor='LearningRateDecayOptimizerConstructor',
    paramwise_cfg=dict(num_layers=2, decay_rate=0.5, decay_type='layer_wise'),
)
TERM = dict(type='mmseg_xmodal.OutputAdversarial', channels=4)


@MODELS.register_module()
class AdaptToyMAE(nn.Module):
    """mmseg's constructor tells a vision transformer by the name of its class."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, 8, 4, 4)
        self.layers = nn.ModuleList([nn.Conv2d(8, 8, 1) for _ in range(2)])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.patch_embed(x)
        for layer in self.layers:
            x = layer(x)
        return x, x


def adaptation() -> Any:
    student = student_cfg() | dict(backbone=dict(type='mmseg_xmodal.AdaptToyMAE'))
    student.pop('auxiliary_head')
    return wrapper([TERM], student=student)


def test_layer_wise_rates_are_those_of_the_plain_segmentor() -> None:
    model = adaptation()
    found = build_optim_wrapper(model, dict(CFG))
    plain = {k: v for k, v in CFG.items() if k != 'student_constructor'}
    plain['constructor'] = CFG['student_constructor']
    expected = build_optim_wrapper(model.student, plain)

    def rates(built: Any) -> dict[int, tuple[float, float]]:
        return {
            id(p): (group['lr'], group['weight_decay'])
            for group in built.optimizer.param_groups
            for p in group['params']
        }

    got, wanted = rates(found), rates(expected)
    assert len({rate for rate, _ in wanted.values()}) == 4  # embedding, layers, head
    assert wanted.items() <= got.items()
    discriminators = {id(p) for p in model.terms[0].parameters()}
    assert discriminators
    assert set(got) == set(wanted) | discriminators
    assert {got[i] for i in discriminators} == {(1e-3, 0.05)}
    before = [p.detach().clone() for p in model.student.parameters()]
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    found.step()
    after = list(model.student.parameters())
    assert not any(map(torch.equal, before, after))


def test_a_model_without_student_is_refused() -> None:
    constructor = StudentOptimWrapperConstructor(
        dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1))
    )
    with pytest.raises(ValueError, match='the Linear has no student.*DomainAdaptive'):
        constructor(nn.Linear(1, 1))
