"""Cross entropy over the hard pixels, as CMNeXt and its successors train.

Source: the definition of StitchFusion's repository
(https://github.com/LiBingyu01/StitchFusion-StitchFusion-Weaving-Any-Visual-Modalities-to-Enhance-Multimodal-Semantic-Segmentation,
LICENSE Apache-2.0), whose code base is that of CMNeXt (https://github.com/jamycheung/DELIVER,
Apache-2.0) and MMSFormer. Written anew.

Difference: a batch without any labelled pixel gives 0 instead of NaN, and one with
fewer than ``1 / min_kept`` labelled pixels, all easy, keeps one pixel instead of none.
mmseg's parts are other losses: ``OHEMPixelSampler`` with ``CrossEntropyLoss`` divides
by all pixels instead of the kept ones and keeps a fixed number per image;
``OhemCrossEntropy`` keeps a fixed number per batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from mmseg_xmodal.registry import MODELS


@MODELS.register_module()
class OHEMCrossEntropyLoss(nn.Module):
    """Mean cross entropy of the pixels that are predicted badly.

    Kept is every pixel whose true class has a probability below ``threshold``; if these
    are fewer than ``min_kept`` of the labelled pixels of the batch, that share with the
    largest losses. With class weights w it is the weighted loss that decides, as
    published: pixels with a probability below ``threshold ** (1 / w)``.

    Args:
        threshold: Probability of the true class below which a pixel of the weight 1 is
            hard, in (0, 1).
        min_kept: Share of the labelled pixels that is kept at least, in (0, 1].
        class_weight: Factor on the loss of each class, before pixels are chosen; None
            = 1.
        loss_weight: Factor on the result.
        loss_name: Its name in the log; must begin with ``'loss_'``.

    Shape:
        - cls_score: (B, C, H, W), logits
        - label: (B, H, W), class ids or ``ignore_index``
        - output: ()

    Raises:
        ValueError: If ``threshold`` or ``min_kept`` lies outside of its range.
    """

    def __init__(
        self,
        threshold: float = 0.7,
        min_kept: float = 1 / 16,
        class_weight: Sequence[float] | None = None,
        loss_weight: float = 1.0,
        loss_name: str = 'loss_ohem',
    ) -> None:
        super().__init__()
        if not 0 < threshold < 1 or not 0 < min_kept <= 1:
            raise ValueError(
                f'OHEMCrossEntropyLoss has threshold={threshold} and min_kept='
                f'{min_kept}, expected a probability in (0, 1) and a share in (0, 1]. '
                'Change them in loss_decode.'
            )
        self.threshold = threshold
        self.min_kept = min_kept
        self.class_weight = None if class_weight is None else list(class_weight)
        self.loss_weight = loss_weight
        self._loss_name = loss_name

    @property
    def loss_name(self) -> str:
        """Name in the log."""
        return self._loss_name

    def forward(
        self,
        cls_score: Tensor,
        label: Tensor,
        weight: Tensor | None = None,
        ignore_index: int = 255,
    ) -> Tensor:
        """Return the loss.

        Raises:
            ValueError: If pixels come with weights, which a ``sampler`` of the head
                gives: two choices of pixels exclude each other.
        """
        if weight is not None:
            raise ValueError(
                f'OHEMCrossEntropyLoss got weights of the shape {tuple(weight.shape)}, '
                'expected None: it chooses pixels itself. Take `sampler` out of '
                'decode_head.'
            )
        score, class_weight = cls_score.float(), self.class_weight
        losses = F.cross_entropy(
            score,
            label,
            weight=None if class_weight is None else score.new_tensor(class_weight),
            ignore_index=ignore_index,
            reduction='none',
        ).flatten()
        labelled = int((label != ignore_index).sum())
        if not labelled:
            # Exactly 0, with a gradient of 0 for every parameter.
            return losses.sum()
        hard = losses[losses > -math.log(self.threshold)]
        least = max(1, int(labelled * self.min_kept))
        if hard.numel() < least:
            hard = losses.topk(least).values
        return self.loss_weight * hard.mean()
