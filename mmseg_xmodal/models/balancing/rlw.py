"""Random loss weighting.

Paper: Lin, Ye, Zhang, Tsang, "Reasonable Effectiveness of Random Weighting: A Litmus
Test for Multi-Task Learning", TMLR 2022, https://arxiv.org/abs/2111.10603. Clean room,
nothing copied.

Difference: the draw follows from a seed and the number of the iteration, so that every
rank draws the same and a resumed run goes on with the same numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from mmseg_xmodal.registry import MODELS

from .base import Counter, LossBalancer


@MODELS.register_module()
class RandomLossWeighting(LossBalancer):
    """Weights drawn anew in every iteration: ``softmax(z)``, ``z`` standard normal.

    They add up to 1 over all tasks, labelled or not, as published: the total is on
    average that of fixed weights 1/T.

    Args:
        tasks: Names of all tasks; the segmentor fills them in.
        seed: Seed of the draws.
    """

    def __init__(self, tasks: Sequence[str], seed: int = 0) -> None:
        super().__init__(tasks)
        self.seed = seed
        self.calls = Counter()

    def weigh(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See :meth:`LossBalancer.forward`."""
        if not self.training:
            even = torch.full((len(self.tasks),), 1 / len(self.tasks))
            return self.scale(losses, even.to(self.calls.count.device))
        rng = np.random.default_rng((self.seed, self.calls.next()))
        draws = torch.from_numpy(rng.standard_normal(len(self.tasks))).float()
        weights = torch.softmax(draws, 0).to(self.calls.count.device)
        return self.scale(losses, weights)
