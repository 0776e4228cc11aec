"""GELU and a linear layer in slices of the tokens: numbers, gradients, memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmseg_xmodal.models.layers import slices as slicing
from mmseg_xmodal.models.layers.gelu_linear import gelu_linear
from mmseg_xmodal.models.layers.slices import training_slices

from .helpers import rand, randomise

WIDTHS = (24, 8)


@pytest.fixture
def linear(monkeypatch: pytest.MonkeyPatch) -> nn.Linear:
    """A layer; 40 tokens and more are taken 32 at a time."""
    monkeypatch.setattr(slicing, '_ELEMENTS', 24 * 32)
    layer = nn.Linear(*WIDTHS).double()
    randomise(layer)
    return layer


def tokens(*shape: int) -> Tensor:
    return rand(*shape, WIDTHS[0]).double().requires_grad_()


def saved(layer: nn.Linear, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Output, and what its graph keeps beside the inputs."""
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = gelu_linear(x, layer)
    own = {x.data_ptr(), layer.weight.data_ptr(), layer.bias.data_ptr()}
    return out, [tensor for tensor in kept if tensor.data_ptr() not in own]


def test_slices_cover_every_token_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slicing, '_ELEMENTS', 1000)
    parts = training_slices(rand(1), channels=10, places=205)
    assert len(parts) > 1
    assert [i for part in parts for i in range(205)[part]] == list(range(205))
    with torch.no_grad():
        assert training_slices(rand(1), 10, 205) == [slice(0, 205)]


@pytest.mark.parametrize('shape', [(2, 75), (150,), (1, 10, 15)])
def test_the_same_numbers_and_gradients(
    linear: nn.Linear, shape: tuple[int, ...]
) -> None:
    x = tokens(*shape)
    assert len(training_slices(x, WIDTHS[0], 150)) > 1
    out, plain = gelu_linear(x, linear), linear(F.gelu(x))
    torch.testing.assert_close(out, plain)
    weights = rand(*plain.shape).double()
    inputs = (x, linear.weight, linear.bias)
    torch.testing.assert_close(
        torch.autograd.grad((out * weights).sum(), inputs),
        torch.autograd.grad((plain * weights).sum(), inputs),
    )


def test_gradcheck(linear: nn.Linear) -> None:
    def run(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.func.functional_call(
            _Call(linear), {'layer.weight': weight, 'layer.bias': bias}, (x,)
        )

    inputs = (tokens(2, 25), linear.weight, linear.bias)
    torch.autograd.gradcheck(run, inputs)
    torch.autograd.gradgradcheck(run, inputs)


class _Call(nn.Module):
    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return gelu_linear(x, self.layer)


def test_the_activated_map_is_not_kept(linear: nn.Linear) -> None:
    _, kept = saved(linear, tokens(2, 75))
    assert not kept
    _, kept = saved(linear, tokens(2, 5))  # one slice: as torch does it
    assert any(tensor.numel() == 10 * WIDTHS[0] for tensor in kept)


@pytest.mark.parametrize('frozen', ['x', 'weight', 'bias'])
def test_what_is_frozen_gets_no_gradient(linear: nn.Linear, frozen: str) -> None:
    x = tokens(2, 75)
    parts: dict[str, Any] = dict(x=x, weight=linear.weight, bias=linear.bias)
    parts[frozen].requires_grad_(False)
    gelu_linear(x, linear).sum().backward()
    expected = {name: name != frozen for name in parts}
    assert {name: part.grad is not None for name, part in parts.items()} == expected


def test_any_strides(linear: nn.Linear) -> None:
    x = rand(2, WIDTHS[0], 75).double().requires_grad_()
    out = gelu_linear(x.mT, linear)
    # A gradient that is one number in memory.
    (grad,) = torch.autograd.grad(out.sum(), x)
    (plain,) = torch.autograd.grad(linear(F.gelu(x.mT)).sum(), x)
    torch.testing.assert_close(grad, plain)


def test_a_layer_with_hooks_is_called(linear: nn.Linear) -> None:
    linear.register_forward_hook(lambda module, args, out: out + 1)
    x = tokens(2, 75)
    torch.testing.assert_close(gelu_linear(x, linear), linear(F.gelu(x)))


def test_under_autocast_torch_chooses_the_precision(linear: nn.Linear) -> None:
    linear.float()
    with torch.autocast('cpu', torch.bfloat16):
        out = gelu_linear(tokens(2, 75).float(), linear)
    assert out.dtype == torch.bfloat16
