"""Sum what samples give to the places around them, in the same order in every run."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def add_up(
    cell: Tensor, weight: Tensor, grad: Tensor, size: tuple[int, int, int]
) -> Tensor:
    """Add ``weight * grad`` up at the four places around the cell of each sample.

    The samples are sorted by their cells, of which there is one more per side than
    places; then each corner is a bag per cell. To sort the corners would be four times
    the work.

    Args:
        cell: Number of the cell times the heads plus the head, in [0, (h + 1) * (w + 1)
            * H).
        weight: Of the four corners, rows first.
        grad: One row for the P samples of a query and head.
        size: Height h and width w of the level, and heads H.

    Shape:
        - cell: (n, P), int32 or int64
        - weight: (n, P, 4)
        - grad: (n, D)
        - output: (h, w, H, D)
    """
    height, width, heads = size
    ordered, order = torch.sort(cell.flatten(), stable=True)
    narrow, places = ordered.dtype, (height + 1, width + 1, heads)
    number = torch.arange(
        places[0] * places[1] * heads, dtype=narrow, device=cell.device
    )
    bounds = torch.searchsorted(ordered, number, out_int32=narrow == torch.int32)
    weight = weight.flatten(0, 1).index_select(0, order)
    # In the narrower type first: to divide 64 bits takes four times as long.
    source = order.to(narrow).div_(cell.shape[1], rounding_mode='trunc')
    out = grad.new_zeros((height, width, heads, grad.shape[1]))
    for corner in range(4):
        bags = F.embedding_bag(
            source,
            grad,
            bounds,
            per_sample_weights=weight[:, corner].contiguous(),
            mode='sum',
        ).view(*places, -1)
        # The first row of cells has places below it only, the last above it only.
        top, left = 1 - corner // 2, 1 - corner % 2
        out += bags[top : top + height, left : left + width]
    return out
