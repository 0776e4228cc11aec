"""NormalHead: angles, unit vectors, and what a flip does to a direction."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_xmodal.models.decode_heads import NormalHead
from mmseg_xmodal.models.losses import NormalCosineLoss
from mmseg_xmodal.registry import MODELS

from .head_cases import (
    SIZE,
    WIDTHS,
    check_nothing_known,
    check_training,
    feats,
    sample,
)
from .helpers import rand, randomise

BOTH = [
    dict(type='mmseg_xmodal.NormalCosineLoss'),
    dict(type='mmseg_xmodal.MaskedL1Loss', loss_weight=0.5),
]


def _head(**changes: Any) -> NormalHead:
    cfg: dict = dict(type='mmseg_xmodal.NormalHead', in_channels=WIDTHS, channels=16)
    return MODELS.build(cfg | changes)


def _normals(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Unit vectors, some of them unknown."""
    normals = F.normalize(rand(*shape, seed=seed, dtype=dtype), dim=-3)
    normals[..., :, 1, :3] = torch.nan
    return normals


def _samples() -> list:
    return [sample(gt_normal_map=_normals(3, *SIZE, seed=i)) for i in range(2)]


@pytest.mark.parametrize('losses', [None, BOTH])
def test_trains(losses: list | None) -> None:
    head, samples = _head(loss_decode=losses), _samples()
    check_training(head, samples)
    names = ['loss_cosine'] if losses is None else ['loss_cosine', 'loss_l1']
    assert list(head.loss(feats(), samples)) == names
    for each in samples:
        each.gt_normal_map.data.fill_(torch.nan)
    check_nothing_known(head, samples)


def test_cosine_loss_is_the_formula() -> None:
    pred = F.normalize(rand(2, 3, 4, 5, seed=2, dtype=torch.float64), dim=1)
    target = _normals(2, 3, 4, 5, dtype=torch.float64)
    values = []
    for b, y, x in torch.cartesian_prod(*(torch.arange(n) for n in (2, 4, 5))):
        p, t = pred[b, :, y, x].tolist(), target[b, :, y, x].tolist()
        if not math.isnan(t[0]):
            values.append(1 - sum(a * c for a, c in zip(p, t, strict=True)))
    assert len(values) == 34
    expected = pytest.approx(sum(values) / len(values))
    assert float(NormalCosineLoss()(pred, target)) == expected
    # The length of the truth does not count; what has none is unknown.
    target[:, :, 1, 0] = 0
    assert float(NormalCosineLoss()(pred, 3 * target)) == expected
    twice = NormalCosineLoss(loss_weight=2.0)(pred, target)
    assert float(twice) == pytest.approx(2 * sum(values) / len(values))


def test_cosine_loss_gradient() -> None:
    pred = rand(1, 3, 3, 4, dtype=torch.float64).requires_grad_()
    target = _normals(1, 3, 3, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: NormalCosineLoss()(x, target), (pred,))
    NormalCosineLoss()(pred, target).backward()
    assert torch.isfinite(pred.grad).all()
    assert not pred.grad[:, :, 1, :3].any()


def test_l1_compares_unit_vectors() -> None:
    head, samples = _head(loss_decode=BOTH[1]), _samples()
    expected = head.loss(feats(), samples)['loss_l1']
    for each in samples:
        each.gt_normal_map.data.mul_(5)
        # Borders that transforms fill with 0 have no direction, like NaN.
        each.gt_normal_map.data.nan_to_num_(0)
    torch.testing.assert_close(head.loss(feats(), samples)['loss_l1'], expected)


def test_outputs_are_unit_vectors() -> None:
    head = _head().eval()
    randomise(head)
    with torch.no_grad():
        out = head.activate(head(feats()))
        torch.testing.assert_close(out.norm(dim=1), torch.ones(2, 9, 14))
        full = head.predict(feats(), [sample().metainfo] * 2)
    assert full.shape == (2, 3, *SIZE)
    # Interpolated vectors are shorter, until they are finished.
    assert full.norm(dim=1).min() < 0.999
    field = head.finish(full[0], sample().metainfo)['pred_normal_map'].data
    torch.testing.assert_close(field.norm(dim=0), torch.ones(SIZE))


def test_starts_with_what_faces_the_viewer() -> None:
    out = _head().activate(_head()(feats()))
    assert out[:, 2].min() > 0.7


def test_a_vector_without_length_has_a_bounded_gradient() -> None:
    output = torch.zeros(1, 3, 2, 2, requires_grad=True)
    _head().activate(output).sum().backward()
    assert torch.isfinite(output.grad).all()
    assert output.grad.abs().max() < 1e4


@pytest.mark.parametrize(
    ('direction', 'signs'),
    [('horizontal', (-1, 1)), ('vertical', (1, -1)), ('diagonal', (-1, -1))],
)
def test_flips_are_undone(direction: str, signs: tuple[int, int]) -> None:
    normals = F.normalize(rand(3, 4, 5), dim=0)
    meta = dict(flip=True, flip_direction=direction)
    field = _head().finish(normals, meta)['pred_normal_map'].data
    expected = normals * torch.tensor([*signs, 1])[:, None, None]
    torch.testing.assert_close(field, expected)
    same = _head().finish(normals, dict(flip=False, flip_direction=direction))
    torch.testing.assert_close(same['pred_normal_map'].data, normals)


def test_errors_name_the_remedy() -> None:
    with pytest.raises(ValueError, match="flip_direction='left', expected one of"):
        _head().finish(rand(3, 2, 2), dict(flip=True, flip_direction='left'))
    with pytest.raises(ValueError, match=r'has the shape \(1, 36, 56\), expected \(3,'):
        _head().truth([sample(gt_normal_map=torch.ones(1, *SIZE))])
