"""Adding a branch to what it belongs to."""

from __future__ import annotations

import torch
from torch import Tensor


def add_branch(x: Tensor, branch: Tensor) -> Tensor:
    """Add, in place where gradients are off.

    While they are recorded, adding in place to a view (and the result of a linear layer
    on tokens is one) makes autograd copy the whole gradient, twice.

    Args:
        x: Changed in place when gradients are off.
        branch: Of the same shape.
    """
    return x + branch if torch.is_grad_enabled() else x.add_(branch)
