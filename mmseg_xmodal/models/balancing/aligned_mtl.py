"""Aligned-MTL: gradients with their principal components brought to one length.

Paper: Senushkin, Patakin, Kuznetsov, Konushin, "Independent Component Alignment for
Multi-Task Learning", CVPR 2023, https://arxiv.org/abs/2305.19000. Checked against
LibMTL (https://github.com/median-research-group/LibMTL, MIT). Clean room, nothing
copied.

Difference: ``torch.linalg.eigh`` in float64, with the threshold of float32, in which
the gradients are given.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmseg_xmodal.registry import MODELS

from .base import GradientRule


@MODELS.register_module()
class AlignedMTL(GradientRule):
    """Sum of the nearest orthogonal gradients, as long as the least principal one.

    With ``G = V diag(l) V^T``: ``w = sqrt(l_min) V diag(l)^(-1/2) V^T 1`` over the
    eigenvalues that are not 0.

    Args:
        tasks: Names of all tasks. Defaults to those of the first update.
    """

    def forward(
        self, gram: Tensor, losses: Tensor, tasks: Sequence[str] | None = None
    ) -> Tensor:
        """See :meth:`GradientRule.forward`."""
        values, vectors = torch.linalg.eigh(gram.double())
        least = values.max() * len(values) * torch.finfo(torch.float32).eps
        kept = values > least
        if not kept.any():
            return torch.ones_like(values)
        values, vectors = values[kept], vectors[:, kept]
        balance = vectors @ torch.diag(values.rsqrt()) @ vectors.T
        return values.min().sqrt() * balance.sum(0)
