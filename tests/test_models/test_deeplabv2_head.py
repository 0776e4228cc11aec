"""DeepLabV2Head: the sum of its convolutions, its keys, its losses."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from mmseg_xmodal.registry import MODELS

from .head_cases import feats, sample, total


def _head(**changes):
    cfg = dict(type='mmseg_xmodal.DeepLabV2Head', in_channels=20, num_classes=5)
    return MODELS.build(cfg | changes)


@pytest.mark.parametrize('dilations', [(6, 12, 18, 24), (6, 12)])
def test_sum_of_dilated_convolutions(dilations):
    head = _head(dilations=dilations).double()
    state = head.state_dict()
    keys = [f'aspp_modules.{i}.conv' for i in range(len(dilations))]
    assert set(state) == {f'{k}.{n}' for k in keys for n in ('weight', 'bias')}
    maps = feats(dtype=torch.float64)
    expected = sum(
        F.conv2d(
            maps[-1],
            state[f'{key}.weight'],
            state[f'{key}.bias'],
            padding=dilation,
            dilation=dilation,
        )
        for key, dilation in zip(keys, dilations, strict=True)
    )
    torch.testing.assert_close(head(maps), expected)


def test_initial_weights():
    head = _head(in_channels=64)
    head.init_weights()
    weights = torch.cat([m.conv.weight.flatten() for m in head.aspp_modules])
    # 11 520 draws: the deviation is known to 0.7 %.
    assert weights.std().item() == pytest.approx(0.01, rel=0.03)
    assert all(not m.conv.bias.any() for m in head.aspp_modules)


def test_loss_reaches_every_parameter():
    head = _head(align_corners=True)
    truth = torch.arange(36 * 56).reshape(1, 36, 56) % 5
    losses = head.loss(feats(), [sample(gt_sem_seg=truth)] * 2, {})
    total(losses).backward()
    assert all(p.grad.abs().sum() > 0 for p in head.parameters())
