"""Running mean features of classes, and the contrast of pixels against them.

Paper: ProCA, Jiang et al., "Prototypical Contrast Adaptation for Domain Adaptive
Semantic Segmentation", ECCV 2022, https://arxiv.org/abs/2207.06654, official code
https://github.com/jiangzhengkai/ProCA (MIT). Clean room, nothing copied.
"""

from __future__ import annotations

import torch
from mmengine.dist import all_reduce
from torch import Tensor, nn
from torch.nn import functional as F


class ClassPrototypes(nn.Module):
    """One mean direction for each class, as buffers, so in the checkpoint.

    Args:
        num_classes: K.
        channels: D.
        momentum: Share of a prototype that is kept in an update, in [0, 1).

    Attributes:
        values: (K, D) float32, means of features of length 1.
        seen: (K,) bool, which classes have one.
    """

    values: Tensor
    seen: Tensor

    def __init__(self, num_classes: int, channels: int, momentum: float) -> None:
        super().__init__()
        self.num_classes, self.momentum = num_classes, momentum
        self.register_buffer('values', torch.zeros(num_classes, channels))
        self.register_buffer('seen', torch.zeros(num_classes, dtype=torch.bool))

    @torch.no_grad()
    def update(self, feats: Tensor, labels: Tensor) -> None:
        """Move the prototypes to the class means of a batch, of all processes.

        The first mean of a class is its prototype; a class without pixels keeps what
        it has.

        Args:
            feats: Features of pixels; such that are not finite are left out.
            labels: Their classes; whatever is no class is left out.

        Shape:
            - feats: (N, D)
            - labels: (N,)
        """
        rows = F.normalize(feats, dim=1)
        # An overflow in one step of one process would stay in the means of all.
        broken = ~rows.isfinite().all(dim=1)
        rows = rows.masked_fill(broken[:, None], 0)
        outside = (labels < 0) | (labels >= self.num_classes) | broken
        classes = labels.masked_fill(outside, self.num_classes)
        one_hot = F.one_hot(classes, self.num_classes + 1)[:, :-1].to(rows)
        sums = torch.cat([one_hot.t() @ rows, one_hot.sum(0)[:, None]], dim=1)
        all_reduce(sums)
        counts = sums[:, -1:]
        mean = sums[:, :-1] / counts.clamp(min=1)
        kept = self.momentum * self.seen[:, None].to(mean)
        moved = kept * self.values + (1 - kept) * mean
        self.values.copy_(torch.where(counts > 0, moved, self.values))
        self.seen |= counts[:, 0] > 0

    def comparable(self, labels: Tensor) -> Tensor:
        """The labels, with K for whatever has no prototype.

        Shape:
            - labels, output: (N,) int64
        """
        outside = (labels < 0) | (labels >= self.num_classes)
        outside = outside | ~self.seen[labels.masked_fill(outside, 0)]
        return labels.masked_fill(outside, self.num_classes)

    def contrast(self, feats: Tensor, labels: Tensor, temperature: float) -> Tensor:
        """Mean of -log softmax(cosine to the prototypes / temperature) at the class.

        Classes without a prototype are no negatives.

        Args:
            feats: Features of pixels.
            labels: Their classes, all of which have a prototype.
            temperature: Above 0.

        Shape:
            - feats: (M, D)
            - labels: (M,)
            - output: (); 0, with a graph, for M = 0
        """
        directions = F.normalize(self.values, dim=1)
        logits = F.normalize(feats, dim=1) @ directions.t() / temperature
        logits = logits.masked_fill(~self.seen, -torch.inf)
        total = F.cross_entropy(logits, labels, reduction='sum')
        return total / max(len(labels), 1)


def sample_places(labels: Tensor, keys: Tensor, count: int, num_classes: int) -> Tensor:
    """At most ``count`` places of each class, those with the smallest keys.

    Args:
        labels: Class of each place, K for none.
        keys: A number for each place.
        count: Most places of a class.
        num_classes: K.

    Shape:
        - labels, keys: (N,)
        - output: (M,) int64, M <= count * K
    """
    order = keys.argsort()
    order = order[labels[order].argsort(stable=True)]
    ordered = labels[order]
    sizes = torch.bincount(labels, minlength=num_classes + 1)
    first = sizes.cumsum(0) - sizes
    rank = torch.arange(len(order), device=order.device) - first[ordered]
    return order[(rank < count) & (ordered < num_classes)]
