"""Single precision where half is not enough."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_single(x: Tensor) -> Tensor:
    """Half precision to single, for means and losses; others as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
