"""Square windows over a map of tokens, in one copy each way.

Paper: Swin Transformer, 2021, https://arxiv.org/abs/2103.14030. Official code:
https://github.com/microsoft/Swin-Transformer (MIT). Written from the paper.

The published form pads the map, rolls it and cuts it into windows: three copies, and
three more on the way back. All of that only moves rows, so one list of positions does
it, and the gradient of moving rows is moving them back.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

# Between places of one window that are no neighbours on the map, as published.
MASKED = -100.0


def _take(x: Tensor, index: Tensor, holes: Tensor | None) -> Tensor:
    out = x.index_select(1, index)
    return out if holes is None else out.index_fill_(1, holes, 0)


class _Move(torch.autograd.Function):
    """Rows to other places; the gradient goes back the same way, row by row."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        index: Tensor,
        holes: Tensor | None,
        back: Tensor,
        back_holes: Tensor | None,
    ) -> Tensor:
        """Take rows ``index`` of (B, N, C); zeros at ``holes`` of the result."""
        ctx.save_for_backward(index, holes, back, back_holes)
        return _take(x, index, holes)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        """Move the gradient back."""
        index, holes, back, back_holes = ctx.saved_tensors
        return _Move.apply(grad, back, back_holes, index, holes), None, None, None, None


@dataclasses.dataclass(frozen=True)
class Windows:
    """How the tokens of one map lie in windows; made by :meth:`cut`.

    Args:
        side: Places per side of a window.
        count: Windows K of a map.
        tokens: Token of each place (K * side**2 of them); 0 where there is none.
        places: Place of each token.
        holes: Places without a token, or None.
        mask: (K, side**2, side**2), 0 or :data:`MASKED`; None = all see each other.
    """

    side: int
    count: int
    tokens: Tensor
    places: Tensor
    holes: Tensor | None
    mask: Tensor | None

    @classmethod
    def cut(
        cls, size: tuple[int, int], side: int, shift: int, device: torch.device
    ) -> Windows:
        """Cut a map into windows, padded below and to the right where they stick out.

        Args:
            size: Height and width of the map.
            side: Places per side of a window.
            shift: Places by which the padded map is rolled up and to the left first.
            device: Of the positions.
        """
        rows, columns = (-(-n // side) for n in size)
        height, width = rows * side, columns * side
        y = (torch.arange(height, device=device) - shift) % height
        x = (torch.arange(width, device=device) - shift) % width
        window = (y // side)[:, None] * columns + (x // side)[None]
        inside = (y % side)[:, None] * side + (x % side)[None]
        place = window * side**2 + inside
        places = place[: size[0], : size[1]].flatten()
        holes = torch.cat(
            [place[size[0] :].flatten(), place[: size[0], size[1] :].flatten()]
        )
        tokens = torch.zeros(height * width, dtype=torch.long, device=device)
        order = torch.arange(len(places), device=device)
        tokens = tokens.scatter(0, places, order)
        return cls(
            side,
            rows * columns,
            tokens,
            places,
            holes if len(holes) else None,
            _shift_mask(height, width, side, shift, device) if shift else None,
        )

    def to_windows(self, x: Tensor) -> Tensor:
        """Bring tokens into windows; places without a token are zero.

        Shape:
            - x: (B, N, C)
            - output: (B, K * side**2, C)
        """
        if not x.requires_grad:
            return _take(x, self.tokens, self.holes)
        return _Move.apply(x, self.tokens, self.holes, self.places, None)

    def to_tokens(self, x: Tensor) -> Tensor:
        """Bring windows back into the order of the map, without the padding.

        Shape:
            - x: (B, K * side**2, C)
            - output: (B, N, C)
        """
        if not x.requires_grad:
            return _take(x, self.places, None)
        return _Move.apply(x, self.places, None, self.tokens, self.holes)


def _shift_mask(
    height: int, width: int, side: int, shift: int, device: torch.device
) -> Tensor:
    """What the last row and column of windows must not mix, (K, side**2, side**2)."""

    def part(length: int) -> Tensor:
        at = torch.arange(length, device=device)
        return (at >= length - side).long() + (at >= length - shift).long()

    parts = 3 * part(height)[:, None] + part(width)[None]
    parts = parts.unflatten(0, (-1, side)).unflatten(2, (-1, side))
    parts = parts.transpose(1, 2).flatten(2).flatten(0, 1)
    other = parts[:, :, None] != parts[:, None]
    return torch.zeros(other.shape, device=device).masked_fill(other, MASKED)
