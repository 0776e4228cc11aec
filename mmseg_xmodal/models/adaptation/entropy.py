"""Make the student sure on the target.

Papers: MinEnt, Vu et al., "ADVENT", CVPR 2019, https://arxiv.org/abs/1811.12833,
official code https://github.com/valeoai/ADVENT (Apache-2.0); the Charbonnier form: FDA,
Yang and Soatto, CVPR 2020, https://arxiv.org/abs/2004.05498 (code without a licence,
not opened). Clean room, nothing copied.

Difference: the Charbonnier form divides by the logarithm of the number of classes; the
official code by 2.9444, that of 19 rounded, whatever their number: ``normaliser``.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mmseg_xmodal.registry import MODELS

from ..layers.logit_probabilities import logit_probabilities
from ..layers.self_information import self_information
from .base import AdaptationStep, AdaptationTerm, Losses
from .step import check_one_map


def mean_entropy(logits: Tensor, valid: Tensor | None = None) -> Tensor:
    """Entropy as a share of the largest possible one, mean over the pixels.

    Args:
        logits: Of the classes.
        valid: Weights of the pixels, 0 = left out; None = all alike.

    Shape:
        - logits: (B, C, H, W)
        - valid: (B, H, W)
        - output: (), in [0, 1]
    """
    return _mean(self_information(logit_probabilities(logits)).sum(dim=1), valid)


def charbonnier_entropy(
    logits: Tensor,
    eta: float = 2.0,
    normaliser: float | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    """Mean of (e^2 + 1e-8)^eta, e the normalised entropy of a pixel.

    Args:
        logits: Of the classes.
        eta: Exponent; above 0.5 unsure pixels count more.
        normaliser: What the entropy in nats is divided by. Defaults to ln C.
        valid: Weights of the pixels, 0 = left out; None = all alike.

    Shape:
        - logits: (B, C, H, W)
        - valid: (B, H, W)
        - output: ()
    """
    probabilities = logit_probabilities(logits)
    scale = math.log(probabilities.shape[1]) if normaliser is None else normaliser
    logs = torch.log(probabilities.clamp(min=torch.finfo(torch.float32).tiny))
    entropy = -(probabilities * logs).sum(dim=1) / scale
    return _mean((entropy.square() + 1e-8).pow(eta), valid)


def _mean(values: Tensor, valid: Tensor | None) -> Tensor:
    """Weighted mean; 0 where nothing is valid."""
    if valid is None:
        return values.mean()
    return (values * valid).sum() / valid.sum().clamp(min=1e-6)


@MODELS.register_module()
class EntropyMinimization(AdaptationTerm):
    """Entropy of the student's prediction on the target images.

    Padding of the target is left out, as is what ``gt_pseudo_valid`` of a sample marks.

    Args:
        weight: Factor of the entropy: MinEnt 0.001, FDA 0.005.
        auxiliary: Factor of that of auxiliary heads, next to ``weight``: MinEnt has
            0.0002 beside 0.001.
        kind: ``'shannon'`` (MinEnt) or ``'charbonnier'`` (FDA).
        eta: Exponent of the Charbonnier form.
        normaliser: Of the Charbonnier form. Defaults to ln C.
        resize: Whether logits are brought to the size of the input first (MinEnt does,
            FDA does not). Defaults to True for ``'shannon'`` only.
        name: See :class:`AdaptationTerm`.

    Raises:
        ValueError: If ``kind`` is unknown, or the student has a cascade of heads.
    """

    NAME = 'entropy'
    GRAPHS = ('target',)

    def __init__(
        self,
        weight: float = 0.001,
        auxiliary: float = 0.2,
        kind: str = 'shannon',
        eta: float = 2.0,
        normaliser: float | None = None,
        resize: bool | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(weight, name)
        if kind not in ('shannon', 'charbonnier'):
            raise ValueError(
                f"EntropyMinimization has kind={kind!r}, expected 'shannon' or "
                "'charbonnier'."
            )
        self.kind, self.eta, self.normaliser = kind, eta, normaliser
        self.auxiliary = auxiliary
        self.resize = kind == 'shannon' if resize is None else resize

    def attach(self, student: Any) -> None:
        """Refuse a student without one map of logits."""
        check_one_map(student, type(self).__name__)

    def forward(self, step: AdaptationStep) -> Losses:
        """Entropy of each head on the target images of this step."""
        losses = {}
        size = step.target.inputs.shape[-2:]
        aligned = bool(step.student.align_corners)
        whole = step.valid_target()
        for i, output in enumerate(step.target_logits):
            logits = output
            if self.resize:
                logits = F.interpolate(
                    logits, size=size, mode='bilinear', align_corners=aligned
                )
            valid = whole
            if valid is not None and valid.shape[1:] != logits.shape[2:]:
                # The share of each place that is no padding.
                valid = F.adaptive_avg_pool2d(valid, (logits.shape[2], logits.shape[3]))
            if self.kind == 'shannon':
                value = mean_entropy(logits, valid)
            else:
                value = charbonnier_entropy(logits, self.eta, self.normaliser, valid)
            factor = self.auxiliary if i else 1.0
            losses[f'loss_entropy_aux{i - 1}' if i else 'loss_entropy'] = value * factor
        return losses
