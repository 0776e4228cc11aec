"""Self-Query Hub of CMNeXt: every stream scores itself, the strongest feature wins.

Paper: CMNeXt (DELIVER), 2023, https://arxiv.org/abs/2303.01480. Official code:
https://github.com/jamycheung/DELIVER (Apache-2.0, with the line "for commercial use
contact the authors" in its README).

Differences: a depth-wise 3x3 and a 1x1 convolution to one channel are one convolution,
taken as a matrix product with nine outputs (same numbers); a validity per stream is
understood.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmseg_xmodal.registry import MODELS

from ..layers.initialisation import segformer_init
from ..layers.slices import is_plain
from ..layers.tokens import to_map, to_tokens


def _score(net: Any, x: Tensor) -> Tensor:
    """Score of each place, before the sigmoid: (B, C, H, W) to (B, 1, H, W)."""
    depthwise, mix = net
    if not is_plain(depthwise, mix):
        return mix(depthwise(x))
    with torch.autocast(x.device.type, enabled=False):
        # (9, C): what each place gives to its nine neighbours.
        taps = (mix.weight.flatten() * depthwise.weight.flatten(1).t()).contiguous()
        bias = mix.bias + mix.weight.flatten(1) @ depthwise.bias
    given = to_map(F.linear(to_tokens(x), taps), (x.shape[2], x.shape[3]))
    kernel = torch.eye(9, dtype=given.dtype, device=given.device).view(1, 9, 3, 3)
    return F.conv2d(given, kernel, bias.to(given.dtype), padding=1)


def _voters(valid: list[Tensor]) -> list[Tensor]:
    """Who takes part in the maximum of each place: (B, 1, h, w) of bool per stream.

    A stream takes part where it is valid. Where none is, those do that are valid
    anywhere in the sample; where there are none either, all do.
    """
    here = torch.stack(valid) > 0
    anywhere = here.amax((3, 4), keepdim=True).expand_as(here)
    voters = torch.where(here.any(0), here, anywhere)
    return list(voters | ~voters.any(0))


@MODELS.register_module()
class SelfQueryHub(nn.Module):
    """Weigh each stream by its own score and take the maximum, element by element.

    With the score s in (0, 1) that a stream gives to each of its places, the stream
    goes on as ``(1 + s) * x``; the fused map is the maximum over these.

    A stream has no part in the maximum at places where it is invalid, unless no stream
    is valid there; a stream that is missing as a whole never has, unless all are.

    Args:
        channels: Channels C of all streams.
        num_streams: Number of streams; backbones of this package fill it in.
    """

    def __init__(self, channels: int, num_streams: int = 2) -> None:
        super().__init__()
        self.score_nets = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, channels, 3, padding=1, groups=channels),
                nn.Conv2d(channels, 1, 1),
            )
            for _ in range(num_streams)
        )
        segformer_init(self)

    def forward(
        self, feats: list[Tensor], valid: list[Tensor] | None = None
    ) -> tuple[list[Tensor], Tensor]:
        """Score the streams and merge them.

        Returns:
            The weighed streams, and their maximum.

        Shape:
            - feats: ``num_streams`` maps (B, C, h, w).
            - valid: as many maps (B, 1, h, w) in [0, 1], or None.
            - output: maps as ``feats``, and (B, C, h, w).

        Raises:
            ValueError: If the number of streams differs.
        """
        if len(feats) != len(self.score_nets):
            raise ValueError(
                f'SelfQueryHub was built for {len(self.score_nets)} streams, got '
                f'{len(feats)}. Set num_streams={len(feats)} in the fusion config.'
            )
        streams = [
            x * (1 + _score(net, x).sigmoid())
            for x, net in zip(feats, self.score_nets, strict=True)
        ]
        seen = streams
        if valid is not None:
            lowest = torch.finfo(streams[0].dtype).min
            seen = [
                torch.where(voter, x, lowest)  # keeps channels-last
                for x, voter in zip(streams, _voters(valid), strict=True)
            ]
        fused = seen[0]
        for x in seen[1:]:
            fused = torch.maximum(fused, x)
        return streams, fused
