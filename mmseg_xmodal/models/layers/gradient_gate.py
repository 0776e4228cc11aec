"""A gate that weighs a task's gradient on its way into shared parameters.

Between shared features and the head of a task, the gate is the identity forwards and
multiplies the gradient by a weight backwards: shared parameters receive the weighted
sum over tasks, the parameters of the heads their gradients as they are. Weighing the
loss instead would scale the heads as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: GradientGate) -> Tensor:
        ctx.gate = gate
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        weight = ctx.gate.weight
        return (grad if weight is None else grad * weight), None


class GradientGate(nn.Module):
    """Identity whose gradient is multiplied by :attr:`weight`.

    The weight is read during the backward pass, so it may be set after the forward
    pass. None leaves the gradient as it is, bit for bit.

    Shape:
        - input and output: any
    """

    weight: Tensor | float | None

    def __init__(self) -> None:
        super().__init__()
        self.weight = None

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x``."""
        return _Gate.apply(x, self) if x.requires_grad else x

    def all(self, feats: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Pass every map of a pyramid."""
        return tuple(self(feat) for feat in feats)
