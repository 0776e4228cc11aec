"""Losses of regressed maps whose truth has holes: depth, elevation.

Everywhere NaN (or infinity) in the truth means "not measured": such a pixel adds
nothing, gets a gradient of exactly 0, and does not count in the mean. Means go over all
measured pixels of the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmseg_xmodal.registry import MODELS


def masked_mean(values: Tensor, valid: Tensor) -> Tensor:
    """Mean of the valid values, 0 (with a gradient of 0) where there are none.

    Shape:
        - values, valid: the same; values are finite everywhere.
        - output: ()
    """
    return torch.where(valid, values, 0).sum() / valid.sum().clamp(min=1)


def masked_error(pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Prediction minus truth, 0 where the truth is unknown, and where it is known."""
    valid = torch.isfinite(target)
    return torch.where(valid, pred - torch.where(valid, target, 0), 0), valid


class _MapLoss(nn.Module):
    """Weight and name, as mmseg's losses have them.

    Args:
        loss_weight: Factor on the result.
        loss_name: Its name in the log; must contain ``'loss'`` to be trained on.
    """

    # Whether prediction and truth must be positive.
    needs_positive = False

    def __init__(self, loss_weight: float, loss_name: str) -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.loss_name = loss_name


@MODELS.register_module()
class MaskedL1Loss(_MapLoss):
    """Mean absolute error, in the unit of the map.

    Args:
        loss_weight: Factor on the result.
        loss_name: Its name in the log; must contain ``'loss'`` to be trained on.

    Shape:
        - pred, target: the same; target NaN = unknown
        - output: ()
    """

    def __init__(self, loss_weight: float = 1.0, loss_name: str = 'loss_l1') -> None:
        super().__init__(loss_weight, loss_name)

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return the loss."""
        error, valid = masked_error(pred, target)
        return self.loss_weight * masked_mean(error.abs(), valid)


@MODELS.register_module()
class BerHuLoss(_MapLoss):
    """Absolute for small errors, quadratic for large ones ("reverse Huber").

    With the threshold c = ``ratio`` times the largest absolute error of the batch, an
    error e counts |e| up to c, and (e^2 + c^2) / 2c beyond. c is no function of the
    weights for the gradient.

    Source: Laina et al., 2016, https://arxiv.org/abs/1606.00373. Clean room, nothing
    copied.

    Args:
        ratio: Threshold over the largest error, in (0, 1].
        loss_weight: Factor on the result.
        loss_name: Its name in the log; must contain ``'loss'`` to be trained on.

    Shape:
        - pred, target: the same; target NaN = unknown
        - output: ()

    Raises:
        ValueError: If ``ratio`` lies outside of its range.
    """

    def __init__(
        self,
        ratio: float = 0.2,
        loss_weight: float = 1.0,
        loss_name: str = 'loss_berhu',
    ) -> None:
        super().__init__(loss_weight, loss_name)
        if not 0 < ratio <= 1:
            raise ValueError(
                f'BerHuLoss has ratio={ratio}, expected a number in (0, 1]. Change it '
                'in loss_decode.'
            )
        self.ratio = ratio

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return the loss."""
        error, valid = masked_error(pred, target)
        size = error.abs()
        # A perfect batch has c = 0, of which the branch not taken must not divide.
        c = (self.ratio * size.detach().amax()).clamp(min=1e-6)
        values = torch.where(size <= c, size, (error.square() + c * c) / (2 * c))
        return self.loss_weight * masked_mean(values, valid)


@MODELS.register_module()
class SILogLoss(_MapLoss):
    """Scale-invariant error of logarithms.

    With d = log(pred) - log(target) over the N measured pixels, D = mean(d^2) -
    ``variance_focus`` * mean(d)^2: at 0 the plain squared error of logarithms, at 1
    their variance, blind to a common scale.

    Source: Eigen et al., 2014, https://arxiv.org/abs/1406.2283 (D with 0.5); the square
    root, 0.85 and the factor 10 became usual with BTS, 2019,
    https://arxiv.org/abs/1907.10326. Clean room, nothing copied.

    mmseg's ``SiLogLoss`` is the square root of D with 0.5, per image; its gradient is
    infinite where the prediction is exact.

    Args:
        variance_focus: In [0, 1].
        sqrt: Whether the loss is ``scale * sqrt(D)`` instead of D.
        scale: Factor on the square root.
        loss_weight: Factor on the result.
        loss_name: Its name in the log; must contain ``'loss'`` to be trained on.

    Shape:
        - pred: any, > 0
        - target: the same; NaN = unknown, as is what has no logarithm (<= 0)
        - output: ()

    Raises:
        ValueError: If ``variance_focus`` lies outside of its range.
    """

    needs_positive = True

    def __init__(
        self,
        variance_focus: float = 0.85,
        sqrt: bool = False,
        scale: float = 10.0,
        loss_weight: float = 1.0,
        loss_name: str = 'loss_silog',
    ) -> None:
        super().__init__(loss_weight, loss_name)
        if not 0 <= variance_focus <= 1:
            raise ValueError(
                f'SILogLoss has variance_focus={variance_focus}, expected a number in '
                '[0, 1]. Change it in loss_decode.'
            )
        self.variance_focus = variance_focus
        self.sqrt = sqrt
        self.scale = scale

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return the loss."""
        valid = torch.isfinite(target) & (target > 0)
        known = torch.where(valid, target, 1).log()
        # Not log first: the gradient of an unknown pixel passes no infinite factor.
        error = torch.where(valid, pred, 1).log() - known
        mean = masked_mean(error, valid)
        # mean(d^2) - f mean(d)^2 without the difference of two large numbers.
        spread = masked_mean((error - mean).square(), valid)
        value = spread + (1 - self.variance_focus) * mean.square()
        if self.sqrt:
            # The slope of the root is infinite at 0.
            value = self.scale * value.clamp(min=1e-12).sqrt()
        return self.loss_weight * value
