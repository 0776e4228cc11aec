"""Stay near the features of ImageNet where things are.

Paper: DAFormer (thing-class ImageNet feature distance), Hoyer et al., CVPR 2022,
https://arxiv.org/abs/2111.14887, official code https://github.com/lhoyer/DAFormer
(Apache-2.0). Clean room, nothing copied.

Difference: without a thing in the batch the loss is 0 instead of NaN.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mmseg_xmodal.registry import MODELS

from .base import AdaptationStep, AdaptationTerm, Losses


def downscale_labels(
    labels: Tensor,
    size: tuple[int, int],
    num_classes: int,
    min_ratio: float,
    ignore_index: int = 255,
) -> Tensor:
    """The class that fills most of each cell, if it fills enough of it.

    Args:
        labels: Label maps; whatever is no class counts as one more.
        size: Cells along height and width.
        num_classes: Number of classes.
        min_ratio: Share of a cell that the class must reach, in [0, 1]; below it, and
            where ignored pixels are the most, the cell gets ``ignore_index``.
        ignore_index: See above.

    Shape:
        - labels: (B, 1, H, W)
        - output: (B, 1, h, w) int64
    """
    flat = labels[:, 0].long()
    known = (flat >= 0) & (flat < num_classes)
    flat = torch.where(known, flat, torch.full_like(flat, num_classes))
    shares = F.one_hot(flat, num_classes + 1).permute(0, 3, 1, 2).float()
    height, width = shares.shape[-2:]
    factor = width // size[1]
    if (size[0] * factor, size[1] * factor) == (height, width):
        shares = F.avg_pool2d(shares, factor)
    else:
        shares = F.adaptive_avg_pool2d(shares, size)
    ratio, found = shares.max(dim=1, keepdim=True)
    unknown = (found == num_classes) | (ratio < min_ratio)
    return found.masked_fill(unknown, ignore_index)


def feature_distance(feats: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
    """Mean distance of the features over the places of a mask; 0 if it is empty.

    Shape:
        - feats, reference: (B, C, h, w)
        - mask: (B, 1, h, w) bool
        - output: ()
    """
    difference = feats.float() - reference.detach().float()
    distance = torch.linalg.vector_norm(difference, dim=1, keepdim=True)
    kept = torch.where(mask, distance, torch.zeros_like(distance))
    return kept.sum() / mask.sum().clamp(min=1)


@MODELS.register_module()
class FeatureAnchor(AdaptationTerm):
    """Distance of the student's features to those of the frozen ``anchor``.

    Both see the source; places count where one of ``classes`` fills ``min_ratio`` of
    the cell. Needs ``anchor`` in the segmentor. A student whose backbone runs several
    times in a pass is compared at the first.

    Args:
        classes: Ids of the thing classes (Cityscapes: 6, 7, 11 to 18).
        weight: Factor of the distance.
        min_ratio: Share of a cell, in [0, 1].
        feature_index: Which of the backbone's maps.
        name: See :class:`AdaptationTerm`.

    Raises:
        ValueError: If there is no class, or ``min_ratio`` lies outside of [0, 1].
    """

    NAME = 'anchor'
    NEEDS = ('anchor',)
    GRAPHS = ('source',)

    def __init__(
        self,
        classes: Sequence[int],
        weight: float = 0.005,
        min_ratio: float = 0.75,
        feature_index: int = -1,
        name: str | None = None,
    ) -> None:
        super().__init__(weight, name)
        if not classes or not 0 <= min_ratio <= 1:
            raise ValueError(
                f'FeatureAnchor has classes={list(classes)} and min_ratio={min_ratio}, '
                'expected at least one class id and a share in [0, 1].'
            )
        self.classes = list(classes)
        self.min_ratio, self.feature_index = min_ratio, feature_index

    def forward(self, step: AdaptationStep) -> Losses:
        """Distance on the source images of this step."""
        assert step.anchor is not None
        args, outputs = step.source_pass
        with torch.no_grad():
            references = step.anchor(*args)
        feats, reference = (
            out if isinstance(out, Tensor) else out[self.feature_index]
            for out in (outputs, references)
        )
        count = step.student.num_classes
        if max(self.classes) >= count or min(self.classes) < 0:
            raise ValueError(
                f'FeatureAnchor has classes={self.classes}, expected ids from 0 to '
                f'{count - 1}. Correct classes.'
            )
        size = (feats.shape[-2], feats.shape[-1])
        labels = downscale_labels(step.source.labels(), size, count, self.min_ratio)
        mask = torch.isin(labels, torch.as_tensor(self.classes, device=labels.device))
        return dict(loss_distance=feature_distance(feats, reference, mask))
