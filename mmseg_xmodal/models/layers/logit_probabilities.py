"""From what a segmentation head predicts to probabilities of every class."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

# By name: mmseg's derive from heads of mmdet, and stand for something else where that
# is not installed.
SCORE_HEADS = ('MaskFormerHead', 'Mask2FormerHead')


def gives_scores(network: Any) -> bool:
    """Whether a segmentor predicts scores of the classes instead of logits.

    Heads of masks do: they sum up softmax x sigmoid over their queries.

    Args:
        network: A segmentor; of a cascade of heads the last one predicts.
    """
    head = getattr(network, 'decode_head', None)
    return is_score_head(head[-1] if isinstance(head, nn.ModuleList) else head)


def is_score_head(head: Any) -> bool:
    """Whether a head, or a class that it derives from, is one of ``SCORE_HEADS``."""
    return any(own.__name__ in SCORE_HEADS for own in type(head).__mro__)


def logit_probabilities(logits: Tensor, scores: bool = False) -> Tensor:
    """Softmax over the classes; one channel is the sigmoid of the second of two.

    Args:
        logits: Of the classes, or of the one channel of a binary head.
        scores: Whether several channels are scores of 0 or more, see
            :func:`gives_scores`: their share in the sum over the classes is taken. A
            softmax of them would be near 1 / C whatever the head says.

    Shape:
        - logits: (B, C, H, W)
        - output: (B, C, H, W), (B, 2, H, W) for C = 1; float32, sums to 1
    """
    logits = logits.float()
    if logits.shape[1] == 1:
        second = logits.sigmoid()
        return torch.cat([1 - second, second], dim=1)
    if scores:
        total = logits.sum(dim=1, keepdim=True)
        return logits / total.clamp(min=torch.finfo(torch.float32).tiny)
    return logits.softmax(dim=1)


def class_probabilities(seg_logits: Tensor, scores: bool = False) -> Tensor:
    """Turn the ``seg_logits`` of a predicted sample into probabilities.

    ``BaseSegmentor.postprocess_result`` of mmseg stores raw logits if there are two or
    more channels, but the sigmoid if there is one. The stock ``SegTTAModel`` applies
    the sigmoid to that again, so that no value falls below 0.5.

    Args:
        seg_logits: The data of ``sample.seg_logits``.
        scores: Whether several channels are scores, not logits: :func:`gives_scores`.

    Shape:
        - seg_logits: (C, H, W).
        - output: (C, H, W), in [0, 1].

    Raises:
        ValueError: If a one-channel map holds values outside [0, 1].
    """
    if seg_logits.shape[0] > 1:
        return logit_probabilities(seg_logits[None], scores)[0].to(seg_logits)
    low, high = seg_logits.aminmax()
    if low < 0 or high > 1:
        raise ValueError(
            f'One-channel seg_logits range from {low:.3g} to {high:.3g}, expected '
            'probabilities in [0, 1]: mmseg applies the sigmoid in '
            'BaseSegmentor.postprocess_result. If your segmentor has its own, apply '
            'it there.'
        )
    return seg_logits
