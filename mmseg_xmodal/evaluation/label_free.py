"""How good predictions look without labels.

``entropy``: mean entropy of the pixels. ``infomax``: entropy of the mean prediction
minus the mean entropy, the mutual information of pixel and class (Krause et al.,
"Discriminative Clustering by Regularized Information Maximization", NeurIPS 2010); the
library https://github.com/KevinMusgrave/pytorch-adapt has both among its validators of
domain adaptation. ``agreement``: share of the pixels on which student and teacher
predict the same class. Clean room, nothing copied.

A model that predicts one class everywhere has the best entropy and, with its teacher,
the best agreement; its infomax is 0, the worst.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from mmengine.dist import all_reduce
from torch import Tensor

# Whether larger is better.
LABEL_FREE_SCORES: Mapping[str, bool] = dict(
    entropy=False, infomax=True, agreement=True
)


class LabelFreeScores:
    """Sums over images, from which the scores follow.

    Entropies are shares of the largest possible one, in [0, 1].
    """

    def __init__(self) -> None:
        self._entropy = self._same = self._pixels = 0.0
        self._sum: Tensor | None = None
        self._compared = False

    @torch.no_grad()
    def add(self, probabilities: Tensor, other: Tensor | None = None) -> None:
        """Add an image.

        Args:
            probabilities: Of the classes, in the network that predicts.
            other: Those of the other network.

        Shape:
            - probabilities, other: (C, H, W)
        """
        p = probabilities.float()
        logs = torch.log(p.clamp(min=torch.finfo(torch.float32).tiny))
        self._entropy += float(-(p * logs).sum(dtype=torch.float64))
        total = p.sum(dim=(1, 2), dtype=torch.float64).cpu()
        self._sum = total if self._sum is None else self._sum + total
        self._pixels += p[0].numel()
        if other is not None:
            self._compared = True
            self._same += float((p.argmax(0) == other.argmax(0)).sum())

    def compute(self) -> dict[str, float]:
        """Scores over all processes, of which some may have no image.

        Raises:
            ValueError: If there is no image in any process.
        """
        # Without an image of its own a process knows neither, but takes part: the
        # others would wait for it.
        classes = 0 if self._sum is None else len(self._sum)
        known = torch.tensor([classes, int(self._compared)])
        all_reduce(known, op='max')
        classes, compared = known.tolist()
        if not classes:
            raise ValueError(
                'There are no images to score. Give dataloader of '
                'LabelFreeSelectionHook at least one image.'
            )
        sums = [self._entropy, self._same, self._pixels]
        nothing = torch.zeros(classes, dtype=torch.float64)
        own = nothing if self._sum is None else self._sum
        packed = torch.cat([torch.tensor(sums, dtype=torch.float64), own])
        all_reduce(packed)
        entropy, same, pixels = packed[:3].tolist()
        marginal = packed[3:] / pixels
        largest = math.log(len(marginal))
        mean = entropy / pixels / largest
        spread = float(-torch.special.xlogy(marginal, marginal).sum()) / largest
        scores = dict(entropy=mean, infomax=spread - mean)
        if compared:
            scores['agreement'] = same / pixels
        return scores
