"""Pseudo-labels of a teacher, and how much each pixel of them counts.

Papers: DACS, WACV 2021, https://arxiv.org/abs/2007.08702, official code
https://github.com/vikolss/DACS (MIT); DAFormer, CVPR 2022,
https://arxiv.org/abs/2111.14887, https://github.com/lhoyer/DAFormer (Apache-2.0).
Clean room, nothing copied.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch
from torch import Tensor

from .logit_probabilities import logit_probabilities


class PseudoLabels(NamedTuple):
    """Labels and weights of pixels.

    Args:
        label: Class ids; what does not count at all may be 255.
        weight: In [0, 1]; None = all that is not ignored counts alike.

    Shape:
        - label: (B, H, W) int64
        - weight: (B, H, W) float32
    """

    label: Tensor
    weight: Tensor | None


def confident_share(confidence: Tensor, threshold: float) -> Tensor:
    """Share of the pixels of the batch whose confidence reaches the threshold.

    Shape:
        - confidence: any, in [0, 1]
        - output: (), float32
    """
    return (confidence >= threshold).float().mean()


@dataclasses.dataclass(frozen=True)
class PseudoLabelRule:
    """How a teacher's logits become pseudo-labels.

    Args:
        threshold: Confidence that counts as sure, in [0, 1]; None = every pixel has the
            weight 1.
        ignore_top: Rows at the top of the input with the weight 0. Lengths in pixels of
            the input: right where crops span the whole height of the image.
        ignore_bottom: Rows at the bottom with the weight 0.
        unsure: ``'share'``: every pixel of the batch weighs as much as the share of
            sure pixels in it (DACS, DAFormer). ``'ignore'``: sure pixels count, others
            get the label 255: for heads that take no pixel weights (Mask2Former).

    Raises:
        ValueError: If a number lies outside of its range.
    """

    threshold: float | None = 0.968
    ignore_top: int = 0
    ignore_bottom: int = 0
    unsure: str = 'share'

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ValueError(
                f'pseudo_labels.threshold={self.threshold}, expected a confidence in '
                '[0, 1], or None to weigh every pixel alike.'
            )
        if self.ignore_top < 0 or self.ignore_bottom < 0:
            raise ValueError(
                f'pseudo_labels has ignore_top={self.ignore_top} and ignore_bottom='
                f'{self.ignore_bottom}, expected numbers of rows, 0 or more.'
            )
        if self.unsure not in ('share', 'ignore'):
            raise ValueError(
                f"pseudo_labels.unsure={self.unsure!r}, expected 'share' or 'ignore'."
            )

    def __call__(
        self, logits: Tensor, valid: Tensor | None = None, scores: bool = False
    ) -> PseudoLabels:
        """Make pseudo-labels.

        The share is that of the whole batch of this process, with the margins.

        Args:
            logits: Of the teacher, at the size of the input.
            valid: 1 where a pixel may count, 0 in margins and padding.
            scores: See :func:`logit_probabilities`.

        Shape:
            - logits: (B, C, H, W)
            - valid: (B, H, W)
        """
        confidence, label = logit_probabilities(logits, scores).max(dim=1)
        weight = self._weight(confidence)
        if self.ignore_top:
            weight[:, : self.ignore_top] = 0
        if self.ignore_bottom:
            weight[:, max(0, weight.shape[1] - self.ignore_bottom) :] = 0
        if valid is not None:
            weight = weight * valid.to(weight)
        if self.unsure == 'ignore':
            return PseudoLabels(label.masked_fill(weight == 0, 255), None)
        return PseudoLabels(label, weight)

    def _weight(self, confidence: Tensor) -> Tensor:
        if self.threshold is None:
            return torch.ones_like(confidence)
        if self.unsure == 'ignore':
            return (confidence >= self.threshold).float()
        share = confident_share(confidence, self.threshold)
        return torch.ones_like(confidence) * share
