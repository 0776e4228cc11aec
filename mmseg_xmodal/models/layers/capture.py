"""While a graph is captured, values are not known, and a step cannot depend on them."""

from __future__ import annotations

import torch


def is_captured() -> bool:
    """Whether ``torch.compile``, an export or ``torch.jit.trace`` reads the code."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()
