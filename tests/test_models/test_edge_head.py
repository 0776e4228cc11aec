"""EdgeHead and its balanced cross entropy."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from mmseg_xmodal.models.decode_heads import EdgeHead
from mmseg_xmodal.models.losses import BalancedBCELoss
from mmseg_xmodal.registry import MODELS

from .head_cases import (
    SIZE,
    WIDTHS,
    check_nothing_known,
    check_training,
    feats,
    sample,
)
from .helpers import rand

HED = dict(type='mmseg_xmodal.BalancedBCELoss', pos_weight=None)


def _head(**changes: Any) -> EdgeHead:
    cfg: dict = dict(type='mmseg_xmodal.EdgeHead', in_channels=WIDTHS, channels=16)
    return MODELS.build(cfg | changes)


def _edges(*shape: int, seed: int = 0) -> Tensor:
    """Few edges, and some pixels that are not labelled."""
    edges = (rand(*shape, seed=seed) > 1).to(torch.uint8)
    edges[..., :2, :] = 255
    return edges


def _samples() -> list:
    return [sample(gt_edge_map=_edges(1, *SIZE, seed=i)) for i in range(2)]


@pytest.mark.parametrize('loss', [None, HED])
def test_trains(loss: dict | None) -> None:
    head, samples = _head(loss_decode=loss), _samples()
    check_training(head, samples)
    assert list(head.loss(feats(), samples)) == ['loss_edge']
    for each in samples:
        each.gt_edge_map.data.fill_(255)
    check_nothing_known(head, samples)


def _cost(score: float, edge: int) -> float:
    p = 1 / (1 + math.exp(-score))
    return -math.log(p if edge else 1 - p)


def _lists(score: Tensor, edges: Tensor) -> list[list[tuple[float, int]]]:
    """Per image, the labelled pixels."""
    return [
        [(s, e) for s, e in zip(a.tolist(), b.tolist(), strict=True) if e != 255]
        for a, b in zip(score.flatten(1), edges.flatten(1), strict=True)
    ]


def test_fixed_balance_is_the_formula() -> None:
    score, edges = rand(2, 1, 6, 5, seed=5, dtype=torch.float64), _edges(2, 1, 6, 5)
    pixels = sum(_lists(score, edges), [])
    values = [(0.95 if e else 0.05) * _cost(s, e) for s, e in pixels]
    expected = pytest.approx(sum(values) / len(values))
    assert float(BalancedBCELoss()(score, edges)) == expected


def test_balance_of_each_image_is_the_formula() -> None:
    score, edges = rand(3, 1, 6, 5, seed=5, dtype=torch.float64), _edges(3, 1, 6, 5)
    edges[0, 0, 2] = 1  # another share of edges
    edges[2] = 255
    values = []
    for image in _lists(score, edges)[:2]:
        share = sum(1 - e for _, e in image) / len(image)
        costs = [(share if e else 1 - share) * _cost(s, e) for s, e in image]
        values.append(sum(costs) / len(costs))
    loss = BalancedBCELoss(pos_weight=None, loss_weight=2.0)(score, edges)
    assert float(loss) == pytest.approx(2 * sum(values) / 2)


@pytest.mark.parametrize('weight', [0.95, None])
def test_gradient(weight: float | None) -> None:
    score = rand(2, 1, 5, 4, dtype=torch.float64).requires_grad_()
    edges, loss = _edges(2, 1, 5, 4), BalancedBCELoss(pos_weight=weight)
    assert torch.autograd.gradcheck(lambda x: loss(x, edges), (score,))
    loss(score, edges).backward()
    assert not score.grad[edges == 255].any()
    assert score.grad[edges != 255].all()


def test_an_image_without_edges() -> None:
    score = rand(1, 1, 5, 4)
    edges = torch.zeros_like(score)
    assert float(BalancedBCELoss(pos_weight=None)(score, edges)) == 0
    assert float(BalancedBCELoss()(score, edges)) > 0


@pytest.mark.parametrize('size', [SIZE, (33, 47), (5, 3)])
def test_predicts_probabilities(size: tuple[int, int]) -> None:
    head = _head().eval()
    with torch.no_grad():
        out = head.predict(feats(size), [sample(size).metainfo] * 2)
    assert out.shape == (2, 1, *size)
    assert 0 < out.min() < out.max() < 1
    field = head.finish(out[0], sample(size).metainfo)
    assert list(field) == ['pred_edge_map']
    assert torch.equal(field['pred_edge_map'].data, out[0])
    assert head.activate(torch.zeros(1, dtype=torch.bfloat16)).dtype == torch.float32


def test_grey_edges_are_refused() -> None:
    grey = _edges(1, *SIZE)
    grey[0, 5, 5] = 128
    with pytest.raises(ValueError, match='picture.png. holds 128, expected 0, 1'):
        _head().loss(feats(), [*_samples()[:1], sample(gt_edge_map=grey)])


@pytest.mark.parametrize('weight', [0.0, 1.0, 2.0])
def test_wrong_weight(weight: float) -> None:
    with pytest.raises(ValueError, match='expected a number in .0, 1., or None'):
        BalancedBCELoss(pos_weight=weight)
