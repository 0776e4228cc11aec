"""IMTL-G: equal projections on all gradients.

Paper: Liu et al., "Towards Impartial Multi-task Learning", ICLR 2021,
https://openreview.net/forum?id=IMPnRXEWpvr. Checked against LibMTL
(https://github.com/median-research-group/LibMTL, MIT). Clean room, nothing copied.

Difference: parallel gradients make the system singular; it is solved by a
pseudo-inverse, and gradients of 0 are left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmseg_xmodal.registry import MODELS

from .base import GradientRule, unit_gram

# Gradients are float32: smaller singular values are their rounding.
_RTOL = 1e-6


@MODELS.register_module()
class IMTLG(GradientRule):
    """Weights, adding up to 1, with which the update projects alike on every gradient.

    Weights may be negative. The projections are on the unit vectors, so that neither a
    large nor a small gradient is favoured.

    Args:
        tasks: Names of all tasks. Defaults to those of the first update.
    """

    def forward(
        self, gram: Tensor, losses: Tensor, tasks: Sequence[str] | None = None
    ) -> Tensor:
        """See :meth:`GradientRule.forward`."""
        norms, cosines = unit_gram(gram)
        present = norms > 0
        weights = torch.ones_like(norms)
        if present.any():
            weights[present] = _alphas(norms[present], cosines[present][:, present])
        return weights


def _alphas(norms: Tensor, cosines: Tensor) -> Tensor:
    """Solve for the tasks whose gradient is not 0."""
    # Row i, column j: projection of the i-th gradient on the j-th unit vector.
    projections = norms[:, None] * cosines
    first = projections[0, 0] - projections[0, 1:]
    # <g_1 - g_s, u_1 - u_t>
    system = first - projections[1:, :1] + projections[1:, 1:]
    rest = first @ torch.linalg.pinv(system, rtol=_RTOL)
    return torch.cat([1 - rest.sum(0, keepdim=True), rest])
