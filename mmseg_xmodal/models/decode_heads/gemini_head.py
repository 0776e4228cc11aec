"""The decode head of GeminiFusion: one MLP decoder for both streams, and an ensemble.

Paper: GeminiFusion, 2024, https://arxiv.org/abs/2406.01210. Official code:
https://github.com/JiaDingCN/GeminiFusion (MIT; some files are under NVIDIA's licence).
Written from the description, nothing is copied.

Difference that changes no number: see :mod:`.mlp_head`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from mmengine.model import kaiming_init
from mmseg.utils import add_prefix
from torch import Tensor, nn

from mmseg_xmodal.registry import MODELS

from ..layers.tokens import to_map, to_tokens
from .cmnext_head import CMNeXtHead

_NAMES = ('first', 'second', 'ensemble')


@MODELS.register_module()
class GeminiHead(CMNeXtHead):
    """Decodes both streams of :class:`GeminiFusion` with the same weights.

    Predicted is the ensemble: the sum of both logits, weighted by softmax(``alpha``).
    The loss is the sum over both streams and the ensemble, through which only
    ``alpha`` learns, if anything. In training each stream has batch statistics of its
    own in the BN, as published.

    Args:
        in_channels: Channels of the four levels, both streams together.
        channels: E, 256 in the paper.
        train_alpha: Learn ``alpha``. The official training does not (no group of its
            optimiser holds it), so that its ensemble is the plain mean.
        kwargs: See :class:`MLPDecodeHead`.

    Shape:
        - input: four maps (B, in_channels[i], h_i, w_i), the largest first.
        - output: logits (B, out_channels, h_0, w_0)

    Raises:
        ValueError: If there are not four levels, or their channels are odd.
    """

    # torch's, but for the fusing convolution.
    official_init: ClassVar[list[dict[str, Any]]] = []

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int = 256,
        train_alpha: bool = False,
        **kwargs: Any,
    ) -> None:
        if any(width % 2 for width in in_channels):
            raise ValueError(
                f'GeminiHead has in_channels={tuple(in_channels)}, expected even '
                'numbers: each level holds two streams. Give the out_channels of '
                'mmseg_xmodal.GeminiFusion (twice its embed_dims).'
            )
        super().__init__([width // 2 for width in in_channels], channels, **kwargs)
        self.alpha = nn.Parameter(torch.ones(2), requires_grad=train_alpha)

    def _build_fuse(self, channels: int) -> nn.Module:
        fuse: Any = super()._build_fuse(channels)
        kaiming_init(fuse.conv)  # as mmcv's ConvModule does
        return fuse

    def stream_logits(self, inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the logits of the first and of the second stream.

        Shape:
            - inputs: maps (B, 2C_i, h_i, w_i), the first stream's channels first.
            - output: two maps (B, out_channels, h_0, w_0)
        """
        stacked = [_streams_into_batch(x) for x in inputs]
        if self.fuse_layers[1].training:
            pairs = [x.chunk(2) for x in stacked]
            first = super().forward([pair[0] for pair in pairs])
            return first, super().forward([pair[1] for pair in pairs])
        first, second = super().forward(stacked).chunk(2)
        return first, second

    def ensemble(self, logits: Sequence[Tensor]) -> Tensor:
        """Weight the logits of the streams by softmax(``alpha``)."""
        dtype = torch.promote_types(self.alpha.dtype, logits[0].dtype)
        first, second = self.alpha.to(dtype).softmax(0)
        return first * logits[0] + second * logits[1]

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return the logits of the ensemble at the size of the first level."""
        return self.ensemble(self.stream_logits(inputs))

    def loss(self, inputs: Any, batch_data_samples: list, train_cfg: Any) -> dict:
        """Return the losses of both streams and of the ensemble."""
        return self.loss_by_feat(self.stream_logits(inputs), batch_data_samples)

    def loss_by_feat(self, seg_logits: Any, batch_data_samples: list) -> dict:
        """Return the losses of both streams and of the ensemble.

        Args:
            seg_logits: Logits of the two streams.
            batch_data_samples: With the labels.
        """
        first, second = seg_logits
        both = self.ensemble([first.detach(), second.detach()])
        losses: dict = {}
        for name, logits in zip(_NAMES, (first, second, both), strict=True):
            own = super().loss_by_feat(logits, batch_data_samples)
            losses |= add_prefix(own, name)
        return losses


def _streams_into_batch(x: Tensor) -> Tensor:
    """(B, 2C, h, w) to (2B, C, h, w), the first stream first."""
    tokens = to_tokens(x).unflatten(2, (2, -1)).permute(2, 0, 1, 3).flatten(0, 1)
    return to_map(tokens, (x.shape[2], x.shape[3]))
