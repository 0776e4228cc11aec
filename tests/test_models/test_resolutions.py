"""Crops, windows, and fusing two resolutions."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from mmseg_xmodal.models.layers.resolutions import (
    CropBox,
    draw_crop,
    fuse_resolutions,
    slide_boxes,
)

from .helpers import rand
from .resolution_toys import (
    up,
)


def test_boxes() -> None:
    assert draw_crop((32, 40), (64, 64)) == CropBox(0, 32, 0, 40)
    rng = np.random.RandomState(0)
    assert {draw_crop((40, 40), (32, 32), 8, rng) for _ in range(9)} == {
        CropBox(0, 32, 0, 32)  # the last place is never drawn, as published
    }
    assert slide_boxes((40, 32), (32, 32), (16, 16)) == (
        CropBox(0, 32, 0, 32),
        CropBox(8, 40, 0, 32),
    )
    size, covered = (70, 41), torch.zeros(70, 41)
    for box in slide_boxes(size, (32, 16), (24, 16)):
        assert box.size == (32, 16)
        box.cut(covered).add_(1)
    assert (covered > 0).all()
    with pytest.raises(ValueError, match=re.escape('must not leave gaps')):
        slide_boxes(size, (8, 8), (16, 8))


def test_fusing_outside_of_the_crop_is_the_context() -> None:
    context, attention = rand(1, 3, 8, 8), rand(1, 3, 8, 8, seed=1)
    box = CropBox(0, 32, 32, 64)
    out = fuse_resolutions(context, rand(1, 3, 8, 8), attention, box, (64, 64))
    expected = up(context, 2)
    torch.testing.assert_close(out.fused[..., 10:, :6], expected[..., 10:, :6])
    assert not torch.allclose(out.fused[..., :8, 8:], expected[..., :8, 8:])
    torch.testing.assert_close(out.attention, attention.sigmoid())
