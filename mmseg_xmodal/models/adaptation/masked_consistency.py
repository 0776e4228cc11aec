"""Predict what is behind a mask from what is around it.

Paper: MIC, Hoyer et al., "Masked Image Consistency for Context-Enhanced Domain
Adaptation", CVPR 2023, https://arxiv.org/abs/2212.01322, official code
https://github.com/lhoyer/MIC (Apache-2.0). Clean room, nothing copied.

Difference: validity channels are masked with the values, so a network that reads them
sees the masked places as missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mmseg_xmodal.registry import MODELS

from ..layers.photometric import DAFORMER, StrongAugmentation
from ..layers.pseudo_labels import PseudoLabels
from .base import AdaptationStep, AdaptationTerm, Losses


def mask_grid(height: int, width: int, block: int) -> tuple[int, int]:
    """Number of blocks along each axis, rounded to the nearest (halves to even).

    Raises:
        ValueError: If an axis is shorter than half a block.
    """
    grid = (round(height / block), round(width / block))
    if block < 1 or 0 in grid:
        raise ValueError(
            f'MaskedConsistency has block={block} for images of {height} x {width} '
            'pixels, expected a block of at least 1 and below twice the shorter side.'
        )
    return grid


def block_mask(uniform: Tensor, size: tuple[int, int], ratio: float) -> Tensor:
    """Keep the blocks whose number exceeds the ratio.

    Args:
        uniform: A number in [0, 1) for each block.
        size: Height and width of the mask.
        ratio: Share of the blocks that is hidden, in [0, 1).

    Shape:
        - uniform: (B, 1, gh, gw)
        - output: (B, 1, H, W) float32: 1 = kept, 0 = hidden
    """
    return F.interpolate((uniform > ratio).float(), size=size)


@MODELS.register_module()
class MaskedConsistency(AdaptationTerm):
    """Train on masked images with the teacher's labels of the whole images.

    Given draws: ``'masked.uniform'`` (B, 1, gh, gw), or ``'masked.mask'`` (B, 1, H, W),
    and ``'masked.augment'``, a list of ``Photometric``.

    Args:
        weight: Factor of the loss.
        block: Side of a block in pixels. MIC: 32 with crops of half the resolution,
            else 64.
        ratio: Share of the blocks that is hidden, in [0, 1).
        images: ``'target'``; or ``'both'``: the first half of the source images with
            their labels, then the first half of the target images. MIC takes both
            from clear to adverse weather, with ``augment=None``.
        augment: As in ``ClassMixSelfTraining``.
        pseudo_labels: Arguments of ``PseudoLabelRule``. Defaults to the segmentor's.
        name: See :class:`AdaptationTerm`.

    Raises:
        ValueError: If ``ratio`` or ``images`` cannot be used.
    """

    NAME = 'masked'
    USES_TEACHER = True

    def __init__(
        self,
        weight: float = 1.0,
        block: int = 32,
        ratio: float = 0.7,
        images: str = 'target',
        augment: Mapping[str, Any] | None = DAFORMER,
        pseudo_labels: Mapping[str, Any] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(weight, name)
        if not 0 <= ratio < 1 or images not in ('target', 'both') or block < 1:
            raise ValueError(
                f'MaskedConsistency has block={block}, ratio={ratio}, images='
                f'{images!r}, expected a number of pixels, a share in [0, 1), and '
                "'target' or 'both'."
            )
        self.block, self.ratio, self.images = block, ratio, images
        self.augment = None if augment is None else StrongAugmentation(**augment)
        self.rule = self.own_rule(pseudo_labels)

    def forward(self, step: AdaptationStep) -> Losses:
        """Losses of the student on the masked images."""
        inputs, labels = self.choose(step)
        if self.augment is not None:
            draws = self.given(step, 'augment')
            draws = self.augment.draw(len(inputs)) if draws is None else draws
            inputs = self.augment(inputs, step.colours, draws)
        mask = self.given(step, 'mask')
        if mask is None:
            size = (inputs.shape[-2], inputs.shape[-1])
            uniform = self.given(step, 'uniform')
            if uniform is None:
                grid = mask_grid(*size, self.block)
                uniform = torch.rand(len(inputs), 1, *grid, device=inputs.device)
            mask = block_mask(uniform, size, self.ratio)
        return step.student_loss(inputs * mask.to(inputs), labels)

    def choose(self, step: AdaptationStep) -> tuple[Tensor, PseudoLabels]:
        """The images before the mask, with labels and weights."""
        inputs, pseudo = step.target.inputs, step.pseudo_labels(self.rule)
        if self.images == 'target':
            return inputs, pseudo
        count = max(1, len(inputs) // 2)
        own = step.source.inputs[:count]
        truth = step.source.labels()[:count, 0].long()
        label = torch.cat([truth, pseudo.label[:count]])
        weight = pseudo.weight
        if weight is not None:
            ones = torch.ones_like(weight[: len(own)])
            weight = torch.cat([ones, weight[:count]])
        return torch.cat([own, inputs[:count]]), PseudoLabels(label, weight)
