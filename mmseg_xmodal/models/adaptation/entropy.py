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

import torch
from torch import Tensor
from torch.nn import functional as F

from mmseg_xmodal.registry import MODELS

from ..layers.logit_probabilities import logit_probabilities
from ..layers.self_information import self_information
from .base import AdaptationStep, AdaptationTerm, Losses


def mean_entropy(logits: Tensor) -> Tensor:
    """Entropy as a share of the largest possible one, mean over the pixels.

    Shape:
        - logits: (B, C, H, W)
        - output: (), in [0, 1]
    """
    return self_information(logit_probabilities(logits)).sum(dim=1).mean()


def charbonnier_entropy(
    logits: Tensor, eta: float = 2.0, normaliser: float | None = None
) -> Tensor:
    """Mean of (e^2 + 1e-8)^eta, e the normalised entropy of a pixel.

    Args:
        logits: Of the classes.
        eta: Exponent; above 0.5 unsure pixels count more.
        normaliser: What the entropy in nats is divided by. Defaults to ln C.

    Shape:
        - logits: (B, C, H, W)
        - output: ()
    """
    probabilities = logit_probabilities(logits)
    scale = math.log(probabilities.shape[1]) if normaliser is None else normaliser
    logs = torch.log(probabilities.clamp(min=torch.finfo(torch.float32).tiny))
    entropy = -(probabilities * logs).sum(dim=1) / scale
    return (entropy.square() + 1e-8).pow(eta).mean()


@MODELS.register_module()
class EntropyMinimization(AdaptationTerm):
    """Entropy of the student's prediction on the target images.

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
        ValueError: If ``kind`` is unknown.
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

    def forward(self, step: AdaptationStep) -> Losses:
        """Entropy of each head on the target images of this step."""
        losses = {}
        size = step.target.inputs.shape[-2:]
        aligned = bool(step.student.align_corners)
        for i, output in enumerate(step.target_logits):
            logits = output
            if self.resize:
                logits = F.interpolate(
                    logits, size=size, mode='bilinear', align_corners=aligned
                )
            if self.kind == 'shannon':
                value = mean_entropy(logits)
            else:
                value = charbonnier_entropy(logits, self.eta, self.normaliser)
            factor = self.auxiliary if i else 1.0
            losses[f'loss_entropy_aux{i - 1}' if i else 'loss_entropy'] = value * factor
        return losses
