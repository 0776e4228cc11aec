"""Keeps autocast out of the operations."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec('P')
T = TypeVar('T')


def without_autocast(function: Callable[P, T]) -> Callable[P, T]:
    """Run a function whose first argument is a tensor outside of autocast.

    The body of a custom operator runs under the caller's autocast, which would make
    half precision of its float32 products. The backward pass, which computes scores
    again, runs outside, as compiled graphs do: the three would disagree.

    Args:
        function: Computes in the dtypes that it chooses.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        first = args[0]
        assert isinstance(first, Tensor)
        with torch.autocast(first.device.type, enabled=False):
            return function(*args, **kwargs)

    return run
