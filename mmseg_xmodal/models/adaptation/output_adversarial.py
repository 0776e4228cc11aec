"""Make predictions of both domains look alike to a discriminator.

Papers: AdaptSegNet, Tsai et al., "Learning to Adapt Structured Output Space for
Semantic Segmentation", CVPR 2018, https://arxiv.org/abs/1802.10349 (code for
non-commercial use, not opened); ADVENT, Vu et al., CVPR 2019,
https://arxiv.org/abs/1811.12833, https://github.com/valeoai/ADVENT (Apache-2.0).
Gradient reversal: Ganin and Lempitsky, ICML 2015, https://arxiv.org/abs/1409.7495.
Clean room, nothing copied.

Difference: with ``optimizer='shared'``, the default, the student gets the negative
gradient of the discriminator's loss instead of the gradient of the opposite label's,
and one optimiser moves both. ``optimizer='own'`` is the published step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmseg_xmodal.registry import MODELS

from ..decode_heads.multi_resolution_head import MultiResolutionHead
from ..layers.gradient_gate import GradientGate
from ..layers.logit_probabilities import logit_probabilities
from ..layers.output_discriminator import OutputDiscriminator
from ..layers.self_information import self_information
from .base import AdaptationStep, AdaptationTerm, Losses
from .step import check_one_map, prediction_heads

# What the discriminator calls the domains.
SOURCE, TARGET = 0.0, 1.0
CHOICES = dict(
    reads=('probabilities', 'self_information'),
    objective=('bce', 'squares'),
    optimizer=('shared', 'own'),
)


def domain_loss(logits: Tensor, domain: float, objective: str = 'bce') -> Tensor:
    """How far a discriminator's answers are from one domain, mean over the places.

    Args:
        logits: Its answers.
        domain: 0 = source, 1 = target.
        objective: ``'bce'``: binary cross entropy; ``'squares'``: LS-GAN.

    Shape:
        - logits: (B, 1, h, w)
        - output: ()
    """
    truth = torch.full_like(logits, domain)
    if objective == 'bce':
        return F.binary_cross_entropy_with_logits(logits, truth)
    return F.mse_loss(logits, truth)


@MODELS.register_module()
class OutputAdversarial(AdaptationTerm):
    """A discriminator tells the domains apart by the student's predictions.

    The student is to be mistaken for the source on target images. The predictions, at
    the size of the input, are those of its head and of each auxiliary head, with a
    discriminator for each. Padding would tell the domain: crop both to one size.

    ``optimizer='shared'``: everything is in the model's losses. The discriminator
    learns from half of its loss on either domain, ``loss_discriminator``, and the
    student from ``-weight`` times the gradient of the whole loss on the target: where
    the discriminator is unsure, the published gradient.

    ``optimizer='own'``: as published. The student learns from ``loss_adversarial``,
    ``weight`` times the frozen discriminator's loss for the opposite label, and the
    discriminators, with an optimiser of their own, from both domains' predictions
    without a graph. It needs ``optim_wrapper.constructor='mmseg_xmodal.
    AdversarialOptimWrapperConstructor'`` and, in several processes,
    ``model_wrapper_cfg=dict(type='mmseg_xmodal.AdaptationDistributedDataParallel')``.

    Args:
        weight: What reaches the student; published 0.001.
        auxiliary: Factor of that of auxiliary heads, next to ``weight``; published
            0.2. With 0 they have no discriminator.
        reads: ``'probabilities'`` (AdaptSegNet) or ``'self_information'`` (ADVENT):
            what the discriminator sees.
        objective: ``'bce'`` (published) or ``'squares'`` (LS-GAN).
        optimizer: See above.
        channels: See :class:`OutputDiscriminator`.
        name: See :class:`AdaptationTerm`.

    Raises:
        ValueError: If an argument is unknown or below 0, or the student is a
            ``MultiResolutionSegmentor`` or has a cascade of heads; in training, if its
            heads do not show what they give.
    """

    NAME = 'adversarial'
    GRAPHS = ('target',)
    USES_SOURCE_LOGITS = True

    discriminators: Any

    def __init__(
        self,
        weight: float = 0.001,
        auxiliary: float = 0.2,
        reads: str = 'probabilities',
        objective: str = 'bce',
        optimizer: str = 'shared',
        channels: int = 64,
        name: str | None = None,
    ) -> None:
        super().__init__(weight, name)
        given = dict(reads=reads, objective=objective, optimizer=optimizer)
        wrong = {k: v for k, v in given.items() if v not in CHOICES[k]}
        if wrong or auxiliary < 0 or channels < 1:
            raise ValueError(
                f'OutputAdversarial has {wrong}, auxiliary={auxiliary} and channels='
                f'{channels}, expected {CHOICES}, a factor of 0 or more and a number '
                'of at least 1.'
            )
        self.auxiliary, self.channels = auxiliary, channels
        self.reads, self.objective, self.optimizer = reads, objective, optimizer
        self.discriminators = nn.ModuleList()

    def attach(self, student: Any) -> None:
        """Build a discriminator for each head that is looked at."""
        check_one_map(student, type(self).__name__)
        heads = prediction_heads(student)
        if isinstance(heads[0], MultiResolutionHead):
            raise ValueError(
                f'OutputAdversarial has a {type(student).__name__} as student, whose '
                'predictions are of two resolutions, expected one map of logits. Take '
                'its EncoderDecoder as student, or another term, such as '
                'EntropyMinimization or ClassMixSelfTraining.'
            )
        self.discriminators = nn.ModuleList(
            OutputDiscriminator(max(head.out_channels, 2), self.channels)
            for head in (heads if self.auxiliary else heads[:1])
        )

    def opponents(self) -> list[nn.Module]:
        """The discriminators, if they have an optimiser of their own."""
        return list(self.discriminators) if self.optimizer == 'own' else []

    def weighted(self, step: AdaptationStep) -> Losses:
        """Losses of this step; ``weight`` is in what reaches the student already."""
        return {f'{self.name}.{key}': value for key, value in self(step).items()}

    def forward(self, step: AdaptationStep) -> Losses:
        """Losses of the student and, if they share its optimiser, discriminators."""
        losses = {}
        target = self._seen(step, step.target_logits)
        shared = self.optimizer == 'shared'
        source = self._source_seen(step) if shared else [None] * len(target)
        for i, (net, own, other) in enumerate(
            zip(self.discriminators, source, target, strict=True)
        ):
            factor = self.weight * (self.auxiliary if i else 1.0)
            if own is None:
                frozen = {k: p.detach() for k, p in net.named_parameters()}
                answer = torch.func.functional_call(net, frozen, (other,))
                loss = domain_loss(answer, SOURCE, self.objective) * factor
                losses['loss_adversarial' + _tail(i)] = loss
            else:
                reversal = GradientGate()
                # The loss behind it is halved.
                reversal.weight = -2 * factor
                loss = self._told_apart(net, own, reversal(other))
                losses['loss_discriminator' + _tail(i)] = loss
        return losses

    def opponent_losses(self, step: AdaptationStep) -> Losses:
        """Losses of discriminators with an optimiser of their own."""
        with torch.no_grad():
            target = self._seen(step, step.target_values)
        pairs = zip(self._source_seen(step), target, strict=True)
        return {
            'loss_discriminator' + _tail(i): self._told_apart(net, *pair)
            for i, (net, pair) in enumerate(
                zip(self.discriminators, pairs, strict=True)
            )
        }

    def _told_apart(self, net: nn.Module, source: Tensor, target: Tensor) -> Tensor:
        own = domain_loss(net(source), SOURCE, self.objective)
        return (own + domain_loss(net(target), TARGET, self.objective)) / 2

    @torch.no_grad()
    def _source_seen(self, step: AdaptationStep) -> list[Tensor]:
        found, expected = len(step.source_logits), len(self.discriminators)
        if found < expected:
            head = prediction_heads(step.student)[found]
            raise ValueError(
                f'OutputAdversarial needs the logits of the source from {expected} '
                f'heads, but the {type(head).__name__} (number {found}) computed its '
                'loss without calling forward(), or gives no map. Use a head such as '
                'FCNHead or SegformerHead; for an auxiliary head, auxiliary=0 leaves '
                'it out.'
            )
        return self._seen(step, step.source_logits)

    def _seen(self, step: AdaptationStep, logits: Sequence[Tensor]) -> list[Tensor]:
        """What the discriminators see of logits.

        Shape:
            - logits: (B, classes, h, w)
            - outputs: (B, classes, H, W)
        """
        size = step.target.inputs.shape[-2:]
        aligned = bool(step.student.align_corners)
        seen = []
        for logit in logits[: len(self.discriminators)]:
            whole = F.interpolate(
                logit, size=size, mode='bilinear', align_corners=aligned
            )
            map_ = logit_probabilities(whole)
            entropic = self.reads == 'self_information'
            seen.append(self_information(map_) if entropic else map_)
        return seen


def _tail(index: int) -> str:
    return f'_aux{index - 1}' if index else ''
