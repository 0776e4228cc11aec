"""Linear maps and bilinear upsampling, in the cheap order.

A 1x1 convolution mixes channels, interpolation mixes places with weights that sum to
1: they commute exactly, biases included. So a decoder that upsamples all levels,
concatenates and convolves can convolve each level at its own size and add the results.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from .tokens import to_map, to_tokens


def sum_of_levels(
    feats: Sequence[Tensor],
    weights: Sequence[Tensor],
    bias: Tensor | None,
    align_corners: bool = False,
    mode: str = 'bilinear',
) -> Tensor:
    """Map each level linearly, resize to the first one's size, add up.

    Args:
        feats: The levels, the largest first.
        weights: One matrix per level.
        bias: Added once.
        align_corners: As in ``F.interpolate``.
        mode: As in ``F.interpolate``.

    Shape:
        - feats: (B, C_i, h_i, w_i)
        - weights: (E, C_i)
        - bias: (E,)
        - output: (B, E, h_0, w_0), channels-last in memory
    """
    size = (feats[0].shape[2], feats[0].shape[3])
    out = to_map(F.linear(to_tokens(feats[0]), weights[0], bias), size)
    corners = align_corners if mode in ('bilinear', 'bicubic') else None
    for feat, weight in zip(feats[1:], weights[1:], strict=True):
        level = to_map(
            F.linear(to_tokens(feat), weight), (feat.shape[2], feat.shape[3])
        )
        if level.shape[2:] != out.shape[2:]:
            level = F.interpolate(level, size, mode=mode, align_corners=corners)
        # The result of a linear layer is not needed for its gradient: adding in
        # place saves one map of full size per level.
        out = out.add_(level)
    return out
