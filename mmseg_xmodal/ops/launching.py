"""What the launches of all Triton kernels share; imports no Triton."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor


def on(device: torch.device) -> Any:
    """Make the device current: Triton launches there; its interpreter needs none."""
    if device.type == 'cuda':
        return torch.cuda.device(device)
    return contextlib.nullcontext()


def extent(x: Tensor) -> int:
    """Distance in elements from the first element to behind the last."""
    if not x.numel():
        return 0
    steps = zip(x.shape, x.stride(), strict=True)
    return 1 + sum((size - 1) * stride for size, stride in steps)
