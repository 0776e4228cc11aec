"""A convolution with stride = kernel is a matrix product on patches."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mmseg_xmodal.models.layers.patch_conv import patch_conv


@pytest.mark.parametrize('size', [(8, 12), (9, 14), (4, 4), (3, 9), (2, 1)])
def test_equals_the_convolution(size: tuple[int, int]):
    torch.manual_seed(0)
    conv = nn.Conv2d(5, 7, 4, 4).double()
    x = torch.randn(2, size[0] * size[1], 5, dtype=torch.double, requires_grad=True)
    image = x.transpose(1, 2).unflatten(2, size)
    lacking = [max(4 - n, 0) for n in size]
    expected = conv(F.pad(image, (0, lacking[1], 0, lacking[0])))
    expected = expected.flatten(2).transpose(1, 2)
    out = patch_conv(conv, x, size)
    torch.testing.assert_close(out, expected)
    wanted = (x, conv.weight, conv.bias)
    grad = torch.randn_like(expected)
    ours = torch.autograd.grad(out, wanted, grad)
    theirs = torch.autograd.grad(expected, wanted, grad)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_a_convolution_with_a_hook_is_called():
    conv = nn.Conv2d(3, 3, 2, 2)
    seen = []
    conv.register_forward_hook(lambda *_: seen.append(1))
    patch_conv(conv, torch.randn(1, 16, 3), (4, 4))
    assert seen == [1]
