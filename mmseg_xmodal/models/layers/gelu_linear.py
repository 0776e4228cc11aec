"""GELU and the linear layer behind it, in training on a CPU without the map between.

The map has four times the channels of the tokens. Kept for the gradient of the weights
it is the largest thing in a block, and so is its own gradient on the way back. GELU is
cheap beside a page fault every 4 KiB: here some tokens at a time are activated, both
ways, in memory that stays in the cache.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .slices import is_plain, training_slices

_gelu_backward = torch.ops.aten.gelu_backward


def gelu_linear(x: Tensor, linear: nn.Linear) -> Tensor:
    """The same as ``linear(F.gelu(x))``.

    Args:
        x: What goes into GELU.
        linear: The layer behind it.

    Shape:
        - x: (..., in_features)
        - output: (..., out_features)
    """
    if is_plain(linear) and linear.bias is not None:
        slices = training_slices(x, x.shape[-1], x[..., 0].numel())
        if len(slices) > 1:
            return _GELULinear.apply(x, linear.weight, linear.bias, slices)
    return linear(F.gelu(x))


class _GELULinear(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor, slices: list[slice]) -> Tensor:
        tokens = x.flatten(0, -2)
        out = x.new_empty(len(tokens), len(weight))
        for part in slices:
            torch.addmm(bias, F.gelu(tokens[part]), weight.t(), out=out[part])
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        x, weight, _, ctx.slices = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        for_x, for_weight, for_bias, _ = ctx.needs_input_grad
        tokens, grad = x.flatten(0, -2), grad.flatten(0, -2)
        if torch.is_grad_enabled():  # for gradients of gradients
            hidden = _gelu_backward(grad @ weight, tokens)
            return hidden.view(x.shape), grad.t() @ F.gelu(tokens), grad.sum(0), None
        grad_x = x.new_empty(x.shape) if for_x else None
        grad_tokens = None if grad_x is None else grad_x.flatten(0, -2)
        grad_weight = torch.zeros_like(weight) if for_weight else None
        for part in ctx.slices:
            if grad_weight is not None:
                grad_weight.addmm_(grad[part].t(), F.gelu(tokens[part]))
            if grad_tokens is not None:
                hidden = grad[part] @ weight
                out = grad_tokens[part]
                _gelu_backward.grad_input(hidden, tokens[part], grad_input=out)
        return grad_x, grad_weight, grad.sum(0) if for_bias else None, None
