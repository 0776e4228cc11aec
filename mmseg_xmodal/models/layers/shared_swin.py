"""A Swin Transformer whose weights all streams share, LayerNorms included.

Paper: Swin Transformer, 2021, https://arxiv.org/abs/2103.14030, shared between
modalities as in GeminiFusion, 2024, https://arxiv.org/abs/2406.01210. Written from the
papers, nothing is copied.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .shared_mit import Exchange
from .swin import Swin
from .tokens import to_map


class SharedSwin(Swin):
    """Swin for several streams, which stand one after the other in the batch.

    The exchange comes between window attention and the first residual of each block.
    The arguments are those of :class:`Swin`.

    Shape:
        - input: S maps (B, in_channels or 1, H, W); one channel counts as that
          channel replicated to all inputs.
        - output: per level S maps (B, embed_dims[i], H / 4 / 2**i, W / 4 / 2**i),
          rounded up, normed
    """

    @property
    def depths(self) -> tuple[int, ...]:
        """Blocks of each stage."""
        return tuple(len(stage.blocks) for stage in self.stages)

    def forward(  # type: ignore[override]
        self, parts: Sequence[Tensor], exchange: Exchange
    ) -> list[list[Tensor]]:
        """Run all stages; ``exchange`` is called in every block."""
        width = self.patch_embed.proj.in_channels
        x, size = self.patch_embed(
            torch.cat([part.expand(-1, width, -1, -1) for part in parts])
        )
        levels = []
        for level, stage in enumerate(self.stages):
            windows = stage.windows(size, x.device)
            for index, block in enumerate(stage.blocks):
                out = block.attend(x, windows[block.shift])
                out = exchange(level, index, out, size, None)
                x = block.feed_forward(x + block.drop_path(out))
            normed = stage.normed(to_map(x, size))
            levels.append(list(normed.chunk(len(parts))))
            if stage.downsample is not None:
                x, size = stage.downsample(x, size)
        return levels
