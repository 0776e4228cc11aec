"""Initialisation rules that several methods share."""

from __future__ import annotations

import math

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def segformer_init(module: nn.Module) -> None:
    """Initialise every layer below ``module`` as SegFormer does.

    Linear: truncated normal with standard deviation 0.02. Convolution: normal with
    variance 2 / fan_out, where fan_out counts the outputs of one group. Norm layers:
    weight 1. All biases 0.

    Args:
        module: Changed in place.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
        elif isinstance(layer, nn.Conv2d):
            area = layer.kernel_size[0] * layer.kernel_size[1]
            fan_out = area * layer.out_channels // layer.groups
            nn.init.normal_(layer.weight, 0, math.sqrt(2.0 / fan_out))
        elif isinstance(layer, nn.LayerNorm | _BatchNorm):
            if layer.weight is not None:
                nn.init.ones_(layer.weight)
        else:
            continue
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
