"""Linear maps and bilinear upsampling, in the cheap order.

A 1x1 convolution mixes channels, interpolation mixes places with weights that sum to
1: they commute exactly, biases included. So a decoder that upsamples all levels,
concatenates and convolves can convolve each level at its own size and add the results.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .slices import inference_slices, is_plain
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
    # A product of two matrices, which is no view: adding to a view in place makes
    # autograd copy the whole map, forwards and backwards.
    out = matrix_product(to_tokens(feats[0]).flatten(0, 1), weights[0], bias)
    corners = align_corners if mode in ('bilinear', 'bicubic') else None
    for feat, weight in zip(feats[1:], weights[1:], strict=True):
        level = to_map(
            F.linear(to_tokens(feat), weight), (feat.shape[2], feat.shape[3])
        )
        if level.shape[2:] != size:
            level = F.interpolate(level, size, mode=mode, align_corners=corners)
        # The result of a product is not needed for its gradient: adding in place
        # saves one map of full size per level.
        out = out.add_(to_tokens(level).flatten(0, 1))
    return to_map(out.view(len(feats[0]), -1, out.shape[1]), size)


def matrix_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``F.linear`` for matrices, whose result autograd does not take for a view.

    Shape:
        - x: (N, C); weight: (E, C); bias: (E,) or None
        - output: (N, E)
    """
    if bias is None:
        return torch.mm(x, weight.t())
    return torch.addmm(bias, x, weight.t())


def pointwise(conv: Any, x: Tensor) -> Tensor:
    """Apply a 1x1 convolution as a linear layer on tokens.

    torch's CPU convolution copies a wide channels-last map to another order first when
    it has few outputs. A convolution that is more than its weights is called as usual.

    Shape:
        - x: (B, C, H, W)
        - output: (B, C_out, H, W), channels-last in memory
    """
    if not is_plain(conv):
        return conv(x)
    out = F.linear(to_tokens(x), conv.weight.flatten(1), conv.bias)
    return to_map(out, (x.shape[2], x.shape[3]))


def is_foldable(norm: nn.Module, dropout: nn.Module | None) -> bool:
    """Whether norm and dropout are fixed maps per channel just now.

    Dropout may be on in an eval head: Monte Carlo dropout does that.
    """
    return (
        isinstance(norm, _BatchNorm)
        and norm.track_running_stats
        and not norm.training
        and not (dropout is not None and dropout.training)
    )


def fold_norm(
    weights: Sequence[Tensor], bias: Tensor | None, norm: Any
) -> tuple[list[Tensor], Tensor]:
    """Fold a BN in eval mode into the linear maps whose sum it normalises.

    To be called anew in every forward: the products are small, and a cache would miss
    weights that are changed through ``.data`` (EMA hooks do that).

    Shape:
        - weights: (E, C_i); bias: (E,) or None
        - output: the same shapes
    """
    scale = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -norm.running_mean if bias is None else bias - norm.running_mean
    shift = shift * scale
    if norm.bias is not None:
        shift = shift + norm.bias
    return [w * scale[:, None] for w in weights], shift


def classify_sum(
    feats: Sequence[Tensor],
    weights: Sequence[Tensor],
    bias: Tensor,
    classifier: nn.Conv2d,
    align_corners: bool = False,
    mode: str = 'bilinear',
) -> Tensor:
    """:func:`sum_of_levels`, ReLU and a 1x1 convolution, for inference.

    The E channels meet only in the classifier, so that they are taken in slices where
    that is cheaper.

    Shape:
        - feats, weights, bias: as in :func:`sum_of_levels`
        - output: (B, classes, h_0, w_0)
    """
    first = feats[0]
    places = first[:, 0].numel()
    slices = inference_slices(first, len(bias), places)
    if len(slices) == 1 or not is_plain(classifier):
        x = sum_of_levels(feats, weights, bias, align_corners, mode)
        return pointwise(classifier, F.relu(x))
    matrix = classifier.weight.flatten(1)
    out = first.new_zeros(places, len(matrix))
    if classifier.bias is not None:
        out += classifier.bias
    for part in slices:
        x = sum_of_levels(
            feats, [w[part] for w in weights], bias[part], align_corners, mode
        )
        x = to_tokens(x.clamp_(min=0)).flatten(0, 1)
        out.addmm_(x, matrix[:, part].t())
    size = (first.shape[2], first.shape[3])
    return to_map(out.view(len(first), -1, len(matrix)), size)
