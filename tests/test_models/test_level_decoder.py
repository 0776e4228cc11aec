"""The light decoder: its plain form, folding in eval mode, adapters."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmseg_xmodal.models.layers.level_decoder import LevelDecoder

from .head_cases import WIDTHS, feats
from .helpers import rand, randomise


def _decoder(**changes) -> LevelDecoder:
    decoder = LevelDecoder(WIDTHS, 3, **dict(channels=16) | changes).double()
    randomise(decoder)
    return decoder


def _plain(decoder: LevelDecoder, maps: list[Tensor]) -> Tensor:
    """Upsample first, then convolve: what the decoder is short for."""
    size = maps[0].shape[2:]
    full = [
        F.interpolate(x, size, mode='bilinear', align_corners=decoder.align_corners)
        for x in maps
    ]
    weight = torch.cat([conv.weight for conv in decoder.levels], 1)
    x = F.relu(decoder.norm(F.conv2d(torch.cat(full, 1), weight)))
    if decoder.refine is not None:
        parts = decoder.refine
        x = F.relu(parts.norm(parts.pointwise(parts.depthwise(x))))
    return decoder.classifier(x)


@pytest.mark.parametrize('train', [True, False])
@pytest.mark.parametrize('refine', [True, False])
@pytest.mark.parametrize('norm', [None, dict(type='GN', num_groups=4)])
def test_equals_the_plain_form(train: bool, refine: bool, norm: dict | None) -> None:
    ours = _decoder(refine=refine, norm_cfg=norm).train(train)
    other = _decoder(refine=refine, norm_cfg=norm).train(train)
    first = feats(dtype=torch.float64, grad=True)
    second = feats(dtype=torch.float64, grad=True)
    out, expected = ours(first), _plain(other, second)
    torch.testing.assert_close(out, expected)
    weight = rand(*out.shape, seed=3, dtype=torch.float64)
    (out * weight).sum().backward()
    (expected * weight).sum().backward()
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    for a, b in zip(ours.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    torch.testing.assert_close(dict(ours.named_buffers()), dict(other.named_buffers()))


def test_levels_that_are_more_than_their_weights() -> None:
    class Adapted(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 1

    decoder = _decoder(align_corners=True).eval()
    expected = decoder(feats(dtype=torch.float64))
    for i, conv in enumerate(decoder.levels):
        new = Adapted(conv.in_channels, conv.out_channels, 1, bias=False).double()
        new.load_state_dict(conv.state_dict())
        decoder.levels[i] = new
    decoder.norm.running_mean += len(WIDTHS)
    torch.testing.assert_close(decoder(feats(dtype=torch.float64)), expected)


def test_starts_with_small_values() -> None:
    """exp() of what an untrained head gives is a depth, not an overflow."""
    out = LevelDecoder(WIDTHS, 1)(feats())
    assert out.abs().max() < 1
    assert out.std() > 0
