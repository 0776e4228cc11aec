"""A Swin Transformer whose weights all streams share, but for the norms at its ends.

Paper: Swin Transformer, 2021, https://arxiv.org/abs/2103.14030, shared between
modalities as in GeminiFusion, 2024, https://arxiv.org/abs/2406.01210, whose official
code (https://github.com/JiaDingCN/GeminiFusion, MIT) says which LayerNorms are shared.
Nothing is copied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .shared_mit import Exchange, StreamNorm
from .swin import Swin
from .swin_sizes import SwinVariant
from .tokens import to_map


class SharedSwin(Swin):
    """Swin for several streams, which stand one after the other in the batch.

    The exchange comes between window attention and the first residual of each block.
    The LayerNorms of the patch embedding and of the output are each stream's own, those
    of the blocks and of the patch merging are shared.

    Args:
        variant: As in :class:`Swin`.
        streams: Number of streams S.
        in_channels: Of the first convolution.
        drop_path_rate: Of the last block; grows linearly from 0. Drawn for each
            stream apart.
        norm_eps: Of the shared LayerNorms.
        stream_norm_eps: Of each stream's own LayerNorms.
        init_cfg: As in mmengine; None = Swin's initialisation.

    Shape:
        - input: S maps (B, in_channels or 1, H, W); one channel counts as that
          channel replicated to all inputs.
        - output: per level S maps (B, embed_dims[i], H / 4 / 2**i, W / 4 / 2**i),
          rounded up, normed

    Raises:
        ValueError: If the variant is unknown or does not fit.
    """

    def __init__(
        self,
        variant: str | SwinVariant | Mapping[str, Any] = 'swin_t',
        streams: int = 2,
        in_channels: int = 3,
        drop_path_rate: float = 0.2,
        norm_eps: float = 1e-5,
        stream_norm_eps: float = 1e-6,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(variant, in_channels, drop_path_rate, norm_eps, init_cfg)
        embed: Any = self.patch_embed
        embed.norm = StreamNorm(streams, self.embed_dims[0], stream_norm_eps)
        for stage, dim in zip(self.stages, self.embed_dims, strict=True):
            stage.norm = StreamNorm(streams, dim, stream_norm_eps)

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
            tokens = zip(stage.norm, x.chunk(len(parts)), strict=True)
            levels.append([to_map(norm(t), size) for norm, t in tokens])
            if stage.downsample is not None:
                x, size = stage.downsample(x, size)
        return levels
