"""What multi-scale deformable attention refuses, and what to change then."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .corners import LevelShapes

NAME = 'multi_scale_deformable_attention'
_LARGEST = 2**24  # coordinates are float32


def level_pairs(level_shapes: Any) -> list[tuple[int, int]]:
    """Heights and widths as integers, from pairs of anything that counts as one.

    Raises:
        ValueError: If the levels are not pairs of whole numbers, or a side is negative
            or above 2**24.
    """
    if isinstance(level_shapes, Tensor):
        level_shapes = level_shapes.tolist()  # one transfer
    try:
        shapes = [(_whole(h), _whole(w)) for h, w in level_shapes]
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f'{NAME}: level_shapes got {level_shapes!r}, expected one pair (height, '
            'width) per level. Pair the sides, as in [(64, 80), (32, 40)].'
        ) from error
    if any(side > _LARGEST for shape in shapes for side in shape):
        raise ValueError(
            f'{NAME}: level_shapes got {shapes}, expected no side above {_LARGEST}, '
            'whose pixels float32 cannot tell apart. Divide the map.'
        )
    if any(h < 0 or w < 0 for h, w in shapes):
        raise ValueError(
            f'{NAME}: level_shapes got {shapes}, expected no negative side. Pass the '
            'size of each map; 0 stands for an empty one.'
        )
    return shapes


def check(
    value: Tensor, shapes: LevelShapes, locations: Tensor, weights: Tensor
) -> None:
    """Refuse what :func:`.api.multi_scale_deformable_attention` cannot take.

    Raises:
        TypeError: For a dtype that does not fit.
        ValueError: For shapes that do not add up, or tensors on several devices.
    """
    for name, tensor, axes in (
        ('value', value, '(B, S, H, D)'),
        ('locations', locations, '(B, Q, H, L, P, 2)'),
        ('weights', weights, '(B, Q, H, L, P)'),
    ):
        if tensor.dim() != axes.count(',') + 1:
            raise ValueError(
                f'{NAME}: {name} got the shape {tuple(tensor.shape)}, expected '
                f'{axes.count(",") + 1} axes {axes}. Reshape it.'
            )
        if not tensor.is_floating_point():
            raise TypeError(
                f'{NAME}: {name} got {tensor.dtype}, expected a floating dtype. '
                'Convert it with .to().'
            )
        if tensor.device != value.device:
            raise ValueError(
                f"{NAME}: {name} got a tensor on '{tensor.device}', expected "
                f"'{value.device}' as value. Move it with .to()."
            )
    if locations.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f'{NAME}: locations got {locations.dtype}, expected torch.float32: half '
            'precision moves samples by up to a pixel. Compute them in float32.'
        )
    places = sum(h * w for h, w in shapes)
    if value.shape[1] != places:
        raise ValueError(
            f'{NAME}: value got {value.shape[1]} places, expected {places}, the sum '
            f'over level_shapes {list(shapes)}. Flatten and join the levels in this '
            'order.'
        )
    b, queries, heads = locations.shape[:3]
    points = locations.shape[4]
    expected = (value.shape[0], queries, value.shape[2], len(shapes), points, 2)
    if tuple(locations.shape) != expected:
        raise ValueError(
            f'{NAME}: locations got the shape {tuple(locations.shape)}, expected '
            f'{expected} (B and heads of value, levels of level_shapes, x and y). Give '
            'each head of each query its points on every level.'
        )
    if tuple(weights.shape) != (b, queries, heads, len(shapes), points):
        raise ValueError(
            f'{NAME}: weights got the shape {tuple(weights.shape)}, expected '
            f'{(b, queries, heads, len(shapes), points)} as locations. Give each '
            'location one weight.'
        )


def _whole(side: Any) -> int:
    number = int(side)
    if number != side:
        raise ValueError(f'{side} is no whole number')
    return number
