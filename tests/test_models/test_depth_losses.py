"""Losses of maps with holes: their formulas, pixel by pixel, and their gradients."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from mmseg.models.losses.silog_loss import silog_loss
from torch import Tensor

from mmseg_xmodal.models.losses import BerHuLoss, MaskedL1Loss, SILogLoss
from mmseg_xmodal.registry import MODELS

from .helpers import rand

LOSSES = [
    MaskedL1Loss(),
    BerHuLoss(),
    SILogLoss(),
    SILogLoss(sqrt=True),
    SILogLoss(variance_focus=1.0, sqrt=True, scale=1.0),
]


def _maps() -> tuple[Tensor, Tensor]:
    """Positive predictions, and a truth with holes."""
    pred = rand(2, 1, 5, 6, dtype=torch.float64).exp()
    target = rand(2, 1, 5, 6, seed=1, dtype=torch.float64).exp()
    target[0, 0, :2, 1:4] = torch.nan
    target[1, 0, 3, 3] = torch.inf
    return pred, target


def _pairs(pred: Tensor, target: Tensor) -> list[tuple[float, float]]:
    both = zip(pred.flatten().tolist(), target.flatten().tolist(), strict=True)
    return [(p, t) for p, t in both if math.isfinite(t)]


def _l1(pairs: list) -> float:
    return sum(abs(p - t) for p, t in pairs) / len(pairs)


def _berhu(pairs: list) -> float:
    errors = [abs(p - t) for p, t in pairs]
    c = 0.2 * max(errors)
    values = [e if e <= c else (e * e + c * c) / (2 * c) for e in errors]
    assert min(errors) < c < max(errors)
    return sum(values) / len(values)


def _silog(focus: float, root: bool, scale: float) -> Callable[[list], float]:
    def loss(pairs: list) -> float:
        d = [math.log(p) - math.log(t) for p, t in pairs]
        n = len(d)
        value = sum(x * x for x in d) / n - focus * sum(d) ** 2 / n**2
        return scale * math.sqrt(value) if root else value

    return loss


@pytest.mark.parametrize(
    ('loss', 'formula'),
    [
        (MaskedL1Loss(), _l1),
        (BerHuLoss(), _berhu),
        (SILogLoss(), _silog(0.85, False, 1)),
        (SILogLoss(variance_focus=0.5), _silog(0.5, False, 1)),
        (SILogLoss(sqrt=True), _silog(0.85, True, 10)),
        (SILogLoss(variance_focus=1.0, sqrt=True, scale=2.0), _silog(1, True, 2)),
    ],
)
def test_is_the_published_formula(loss, formula) -> None:
    pred, target = _maps()
    assert float(loss(pred, target)) == pytest.approx(formula(_pairs(pred, target)))
    loss.loss_weight = 3.0
    assert float(loss(pred, target)) == pytest.approx(3 * formula(_pairs(pred, target)))


@pytest.mark.parametrize('loss', LOSSES)
def test_gradient(loss) -> None:
    pred, target = _maps()
    if isinstance(loss, BerHuLoss):
        # The threshold is no function of the prediction: keep its pixel fixed.
        worst = (pred - target).abs().nan_to_num(0, posinf=0).argmax()
        kept = torch.arange(pred.numel()) != worst
    else:
        kept = torch.ones(pred.numel(), dtype=torch.bool)

    def run(part: Tensor) -> Tensor:
        whole = pred.flatten().clone()
        whole[kept] = part
        return loss(whole.view_as(pred), target)

    assert torch.autograd.gradcheck(run, pred.flatten()[kept].requires_grad_())


@pytest.mark.parametrize('loss', LOSSES)
def test_unknown_pixels_get_no_gradient(loss) -> None:
    pred, target = _maps()
    # What stands there must not matter either, infinite slopes included.
    pred[0, 0, 1, 1] = 0
    pred.requires_grad_()
    loss(pred, target).backward()
    known = torch.isfinite(target)
    assert torch.isfinite(pred.grad).all()
    assert not pred.grad[~known].any()
    assert pred.grad[known].all()


@pytest.mark.parametrize('loss', LOSSES)
@pytest.mark.parametrize('case', ['nothing known', 'exact'])
def test_zero_and_no_gradient(loss, case: str) -> None:
    pred, target = _maps()
    target = torch.full_like(pred, torch.nan) if case == 'nothing known' else pred
    pred = pred.clone().requires_grad_()
    value = loss(pred, target.clone())
    value.backward()
    # The square root starts at sqrt(1e-12), where its slope is cut off.
    assert float(value) == pytest.approx(0, abs=1e-5)
    assert not pred.grad.any()


def test_logarithms_of_what_has_none_are_left_out() -> None:
    pred, target = _maps()
    holes = target.clone()
    holes[0, 0, 4] = torch.nan
    target[0, 0, 4, :3], target[0, 0, 4, 3:] = 0.0, -1.0
    assert torch.equal(SILogLoss()(pred, target), SILogLoss()(pred, holes))


def test_variance_focus_of_one_is_blind_to_scale() -> None:
    pred, target = _maps()
    blind, plain = SILogLoss(variance_focus=1.0), SILogLoss(variance_focus=0.0)
    torch.testing.assert_close(blind(3 * pred, target), blind(pred, target))
    assert plain(3 * pred, target) > plain(pred, target) + 0.1


def test_against_the_loss_of_mmseg() -> None:
    """Which is per image, with a focus of 0.5."""
    pred, target = (x[:1].nan_to_num(0) for x in _maps())
    ours = SILogLoss(variance_focus=0.5, sqrt=True, scale=1.0)
    torch.testing.assert_close(ours(pred, target), silog_loss(pred, target))


def test_names_and_registry() -> None:
    cfg = dict(type='mmseg_xmodal.SILogLoss', loss_weight=0.5, loss_name='loss_d')
    loss = MODELS.build(cfg)
    assert (loss.loss_name, loss.loss_weight) == ('loss_d', 0.5)
    names = [MODELS.build(dict(type=f'mmseg_xmodal.{n}')).loss_name for n in _NAMES]
    assert names == ['loss_l1', 'loss_berhu', 'loss_silog']


_NAMES = ('MaskedL1Loss', 'BerHuLoss', 'SILogLoss')


def test_wrong_numbers() -> None:
    with pytest.raises(ValueError, match=r'ratio=0, expected a number in \(0, 1\]'):
        BerHuLoss(ratio=0)
    with pytest.raises(ValueError, match='variance_focus=1.5, expected a number in'):
        SILogLoss(variance_focus=1.5)
