"""What the model tests share."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmseg_xmodal.compat import import_extra

RGBD = dict(
    rgb=dict(channels=3, order='rgb', mean=[120.0] * 3, std=[60.0] * 3),
    depth=dict(channels=1, mean=[3.0], std=[1.5]),
)
FOUR = dict(
    rgb=dict(channels=3, order='rgb'),
    nir=dict(channels=1),
    swir=dict(channels=2),
    dem=dict(channels=1),
)
TINY = dict(embed_dims=(8, 16, 24, 32), depths=(1, 2, 1, 1), num_heads=(1, 2, 3, 4))


def require(*packages: str) -> None:
    """Skip, with the reason, where a package of the extra [encoders] is not at hand."""
    for package in packages:
        try:
            import_extra(package, 'encoders')
        except ImportError as error:
            pytest.skip(str(error), allow_module_level=True)


def randomise(module: nn.Module, seed: int = 0) -> None:
    """Give every parameter and statistic a value that shows mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            fan_in = max(parameter[0].numel(), 1) if parameter.ndim > 1 else 25
            parameter.copy_(noise / fan_in**0.5 + (parameter.ndim == 1))
        for name, buffer in module.named_buffers():
            if name.endswith('running_mean'):
                buffer.copy_(0.1 * torch.randn(buffer.shape, generator=generator))
            elif name.endswith('running_var'):
                buffer.copy_(1 + torch.rand(buffer.shape, generator=generator))


def rand(*shape: int, seed: int = 0, dtype: Any = torch.float32) -> Tensor:
    """Standard normal values."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def without_gradient(module: nn.Module) -> list[str]:
    """Names of the trainable parameters that no gradient has reached."""
    return [
        name
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
        and (parameter.grad is None or not parameter.grad.abs().sum() > 0)
    ]
