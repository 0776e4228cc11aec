"""A transformer encoder over the pyramid: attention, then the segmentation network.

Not a published network. Global attention: Attention Is All You Need (2017,
https://arxiv.org/abs/1706.03762). Windows: Swin Transformer (2021,
https://arxiv.org/abs/2103.14030), here without shifts, since the convolution of the
MixFFN reaches over their borders. Criss-cross: CCNet (2019,
https://arxiv.org/abs/1811.11721), the same layer twice, so that every place reaches
every other one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine.model import BaseModule, ModuleList
from torch import Tensor, nn

from mmseg_xmodal.ops import criss_cross_attention, windowed_cross_attention
from mmseg_xmodal.registry import MODELS

from ..layers.drop_path import DropPath
from ..layers.initialisation import segformer_init
from ..layers.map_probe import MapProbe, ShownMap
from ..layers.mit import MixFFN
from ..layers.stacked_levels import check_counts, check_levels, per_level
from ..layers.token_attention import check_heads, masked_attention, masked_softmax
from ..layers.tokens import to_map, to_tokens

KINDS = ('global', 'windowed', 'criss_cross')
_PASSES = dict(criss_cross=2)


class SelfAttentionBlock(nn.Module):
    """Self-attention of one kind, then MixFFN; both pre-normed.

    Args:
        dim: Channels C.
        kind: ``'global'``, ``'windowed'`` or ``'criss_cross'``.
        heads: Attention heads; C is a multiple.
        window: Places per side of a window.
        mlp_ratio: Hidden channels of the MixFFN over C.
        drop_path: Rate of stochastic depth.
    """

    def __init__(
        self,
        dim: int,
        kind: str,
        heads: int,
        window: int,
        mlp_ratio: int,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.kind = kind
        self.heads = heads
        self.window = window
        self.norm1 = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MixFFN(dim, mlp_ratio * dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, L, C) to (B, L, C)."""
        for _ in range(_PASSES.get(self.kind, 1)):
            x = x + self.drop_path(self.proj(self._attend(self.norm1(x), size)))
        return x + self.drop_path(self.mlp(self.norm2(x), size))

    def _attend(self, y: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, L, C) to (B, L, C)."""
        q, k, v = self._project(y)
        if self.kind == 'global':
            heads = (t.transpose(1, 2) for t in (q, k, v))
            return masked_attention(*heads).transpose(1, 2).flatten(2)
        if self.kind == 'windowed':
            q, k, v = (t.unflatten(1, size) for t in (q, k, v))
            out = windowed_cross_attention(q, k, v, self.window)
            return out.flatten(1, 2).flatten(2)
        # Every head is a map of its own.
        maps = (
            t.permute(0, 2, 3, 1).flatten(0, 1).unflatten(2, size) for t in (q, k, v)
        )
        out = criss_cross_attention(*maps, scale=q.shape[3] ** -0.5)
        return to_tokens(out.unflatten(0, (y.shape[0], -1)).flatten(1, 2))

    def _project(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, (B, L, H, D) each."""
        q, k, v = self.qkv(y).unflatten(2, (3, self.heads, -1)).unbind(2)
        return q, k, v

    @torch.no_grad()
    def weights_of_centre(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Attention of the place in the middle to all places, mean over heads.

        With criss-cross attention: in the first of the two passes.

        Shape:
            - x: (B, L, C)
            - output: (B, h, w)
        """
        q, k, _ = (t.transpose(1, 2) for t in self._project(self.norm1(x)))
        row, column = size[0] // 2, size[1] // 2
        rows = torch.arange(size[0], device=x.device)[:, None]
        columns = torch.arange(size[1], device=x.device)[None]
        near = torch.ones(size, dtype=torch.bool, device=x.device)
        if self.kind == 'windowed':
            near &= rows // self.window == row // self.window
            near &= columns // self.window == column // self.window
        elif self.kind == 'criss_cross':
            near &= (rows == row) | (columns == column)
        centre = row * size[1] + column
        query = q[:, :, centre : centre + 1] * q.shape[3] ** -0.5
        mask = near.flatten().expand(len(x), -1)
        weights = masked_softmax(query @ k.transpose(2, 3), mask)
        return weights.mean(1).squeeze(1).unflatten(1, size)


@MODELS.register_module()
class SelfAttentionNeck(BaseModule):
    """Self-attention at every level of any pyramid.

    Args:
        in_channels: Channels C per level; also of the output.
        attention: Kind per level, or one for all: ``'global'`` (every place attends to
            every place), ``'windowed'``, ``'criss_cross'`` (its row and its column,
            twice) or None (the level passes through). ``'auto'`` = global at the two
            last levels, windowed before.
        window: Places per side of a window, one number or one per level.
        num_heads: One number or one per level; None = one per 32 channels.
        depth: Blocks per level.
        mlp_ratio: Hidden channels of the feed-forward layers over C.
        drop_path_rate: Stochastic depth.
        init_cfg: As in mmengine.

    Shape:
        - input: (B, C, h, w) per level.
        - output: as the input.

    Raises:
        ValueError: If a setting does not fit the levels.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        attention: str | Sequence[str | None] = 'auto',
        window: int | Sequence[int] = 7,
        num_heads: int | Sequence[int] | None = None,
        depth: int = 1,
        mlp_ratio: int = 2,
        drop_path_rate: float = 0.0,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg)
        check_counts(self, window=window, depth=depth, mlp_ratio=mlp_ratio)
        self.in_channels = tuple(in_channels)
        count = len(self.in_channels)
        if attention == 'auto':
            attention = ['windowed'] * max(count - 2, 0) + ['global'] * min(count, 2)
        kinds = per_level('attention', attention, count)
        wrong = [kind for kind in kinds if kind not in (*KINDS, None)]
        if wrong:
            raise ValueError(
                f'attention={attention!r} names {wrong}, expected {KINDS} or None, or '
                "'auto' for all. Change `attention` of SelfAttentionNeck."
            )
        windows = per_level('window', window, count)
        heads = per_level('num_heads', num_heads, count)
        self.levels = ModuleList(
            ModuleList(
                SelfAttentionBlock(
                    dim,
                    kinds[i],
                    check_heads(type(self).__name__, dim, heads[i]),
                    windows[i],
                    mlp_ratio,
                    drop_path_rate,
                )
                for _ in range(depth if kinds[i] else 0)
            )
            for i, dim in enumerate(self.in_channels)
        )
        self.probe = MapProbe()
        segformer_init(self)

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of the output maps."""
        return self.in_channels

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the pyramid.

        Raises:
            ValueError: If levels or channels do not fit ``in_channels``.
        """
        check_levels(self, inputs, self.in_channels)
        outs, maps = [], []
        for i, (level, blocks) in enumerate(zip(inputs, self.levels, strict=True)):
            size = (level.shape[2], level.shape[3])
            x = to_tokens(level)
            for j, block in enumerate(blocks):
                if self.probe.is_watched and j == len(blocks) - 1:
                    title = f'level {i}: attention of the centre'
                    maps.append(ShownMap(title, block.weights_of_centre(x, size)))
                x = block(x, size)
            outs.append(to_map(x, size) if len(blocks) else level)
        if self.probe.is_watched:
            self.probe(maps)
        return tuple(outs)
