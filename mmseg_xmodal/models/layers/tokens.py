"""The two views of a feature map: tokens and NCHW map.

A map made by :func:`to_map` lies in memory as channels-last, so that going back and
forth between linear layers (tokens) and convolutions (map) copies nothing.
"""

from __future__ import annotations

from torch import Tensor


def to_tokens(x: Tensor) -> Tensor:
    """View a map as tokens; free when the map is channels-last in memory.

    Shape:
        - x: (B, C, H, W)
        - output: (B, H * W, C)
    """
    # Not flatten(2).transpose(1, 2): its gradient has, for a batch of one, strides that
    # convolutions do not take for channels-last, and they copy it.
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def to_map(x: Tensor, size: tuple[int, int]) -> Tensor:
    """View tokens as a map that is channels-last in memory.

    Args:
        x: The tokens, row by row.
        size: Height and width of the map.

    Shape:
        - x: (B, H * W, C)
        - output: (B, C, H, W)
    """
    # Split the tokens first: transposing first gives a batch of one a stride by which
    # torch no longer recognises channels-last, and every convolution then copies.
    return x.contiguous().unflatten(1, size).permute(0, 3, 1, 2)
