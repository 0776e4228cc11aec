"""Running statistics of norms, as they were before a forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

# Buffers, and what they held.
Statistics: TypeAlias = list[tuple[Tensor, Tensor]]


def read_statistics(model: nn.Module) -> Statistics:
    """Copy the running statistics that a forward pass of the model would change."""
    norms = [m for m in model.modules() if isinstance(m, _NormBase) and m.training]
    return [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers()]


@torch.no_grad()
def put_back(statistics: Statistics) -> None:
    """Let the buffers hold what :func:`read_statistics` has found in them.

    No backward pass may run through the norms of the forward pass in between: autograd
    has kept the buffers, and refuses those that were written to.
    """
    for buffer, value in statistics:
        buffer.copy_(value)


@contextmanager
def statistics_kept(model: nn.Module) -> Iterator[None]:
    """After the block, running statistics are what they were before."""
    statistics = read_statistics(model)
    try:
        yield
    finally:
        put_back(statistics)
