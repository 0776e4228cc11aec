"""Autocast changes no operation of our own: their sums are float32 on purpose.

The body of a custom operator runs under autocast, which would make half precision of
the matrix products in it. Windowed attention is PyTorch's, which autocast rounds.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mmseg_xmodal.ops import (
    criss_cross_attention,
    modality_attention,
    multi_scale_deformable_attention,
)


def criss_cross(draw: Callable[..., Tensor]) -> tuple[Callable, list[Tensor]]:
    # Scores of tens, which bfloat16 rounds by eighths.
    return criss_cross_attention, [draw(2, 8, 6, 5, scale=3) for _ in range(3)]


def modality(draw: Callable[..., Tensor]) -> tuple[Callable, list[Tensor]]:
    def attend(q: Tensor, *rest: Tensor) -> Tensor:
        return modality_attention(q, rest[:3], rest[3:])

    return attend, [draw(2, 10, 2, 8, scale=3) for _ in range(7)]


def deformable(draw: Callable[..., Tensor]) -> tuple[Callable, list[Tensor]]:
    def attend(value: Tensor, weights: Tensor, places: Tensor) -> Tensor:
        return multi_scale_deformable_attention(
            value, [(4, 6), (2, 3)], places.float(), weights
        )

    places = draw(2, 7, 2, 2, 3, 2)
    return attend, [draw(2, 30, 2, 8), draw(2, 7, 2, 2, 3), places]


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize('make', [criss_cross, modality, deformable])
def test_numbers_and_gradients_are_those_without(make, dtype):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        return scale * torch.randn(*shape, generator=generator)

    attend, drawn = make(draw)

    def run(autocast: bool) -> tuple[Tensor, ...]:
        inputs = [x.to(dtype).requires_grad_() for x in drawn]
        with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
            out = attend(*inputs)
            # Users' backward stands outside; a checkpointed one runs inside.
            return out, *torch.autograd.grad(out.float().square().sum(), inputs)

    for found, expected in zip(run(True), run(False), strict=True):
        assert found.dtype == expected.dtype
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
