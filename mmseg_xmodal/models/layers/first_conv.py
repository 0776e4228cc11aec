"""The first convolution of a backbone, the one that fixes its input channels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

FIRST_CONV_MODES = ('sum', 'mean', 'repeat', 'random')


def find_first_conv(backbone: nn.Module) -> tuple[str, nn.Conv2d]:
    """Find the convolution that meets the input.

    Args:
        backbone: Its first ``Conv2d`` in order of definition is taken.

    Returns:
        Name below ``backbone``, and the module.

    Raises:
        ValueError: If there is none.
    """
    for name, module in backbone.named_modules():
        if isinstance(module, nn.Conv2d):
            return name, module
    raise ValueError(
        f'{type(backbone).__name__} has no 2d convolution, so its input channels '
        'cannot be set. Use a backbone whose first layer is a Conv2d.'
    )


def replace_first_conv(backbone: nn.Module, channels: int) -> None:
    """Put a convolution with other input channels in the place of the first one.

    For backbones whose constructor has no ``in_channels`` (MobileNetV2), or ignores
    it (MSCAN of mmseg 1.2.2).

    Args:
        backbone: Changed in place.
        channels: New number of input channels.
    """
    name, old = find_first_conv(backbone)
    parent_name, _, last = name.rpartition('.')
    geometry: dict[str, Any] = dict(
        kernel_size=old.kernel_size,
        stride=old.stride,
        padding=old.padding,
        dilation=old.dilation,
        padding_mode=old.padding_mode,
    )
    bias = old.bias is not None
    new = type(old)(channels, old.out_channels, bias=bias, **geometry)
    setattr(backbone.get_submodule(parent_name), last, new)


def adapt_first_conv(weight: Tensor, channels: int, mode: str) -> Tensor:
    """Fit trained weights of the first convolution to other input channels.

    Each mode but ``'mean'`` keeps the size of the response: when all new channels
    carry the map that all old ones carried, ``'sum'`` and ``'repeat'`` give the old
    numbers. One channel with ``'sum'`` equals that channel replicated to three.

    Args:
        weight: Trained weights.
        channels: New number of input channels.
        mode: ``'sum'``: each channel gets the sum over the old ones, divided by the
            new number. ``'mean'``: each gets the mean over the old ones. ``'repeat'``:
            the old ones in turn, scaled by old / new. (``'random'`` keeps the
            initialisation and is no business of this function.)

    Shape:
        - weight: (O, I, k, k)
        - output: (O, channels, k, k)

    Raises:
        ValueError: If the mode is unknown.
    """
    old = weight.shape[1]
    if mode == 'sum':
        return weight.sum(1, keepdim=True).repeat(1, channels, 1, 1) / channels
    if mode == 'mean':
        return weight.mean(1, keepdim=True).repeat(1, channels, 1, 1)
    if mode == 'repeat':
        index = torch.arange(channels, device=weight.device) % old
        return weight[:, index] * (old / channels)
    raise ValueError(
        f'first_conv={mode!r}, expected one of {FIRST_CONV_MODES}. Change first_conv '
        'in `pretrained` of the backbone.'
    )
