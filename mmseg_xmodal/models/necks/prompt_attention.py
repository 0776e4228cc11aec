"""Pixels attend to a sequence of tokens: words, sounds, classes.

Not a published network: the cross-attention of Attention Is All You Need (2017,
https://arxiv.org/abs/1706.03762) from every place of a pyramid to a token sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseModule, ModuleList
from torch import Tensor, nn

from mmseg_xmodal.registry import MODELS
from mmseg_xmodal.structures import PromptFeatures

from ..layers.drop_path import DropPath
from ..layers.initialisation import segformer_init
from ..layers.map_probe import MapProbe, ShownMap
from ..layers.mit import MixFFN
from ..layers.stacked_levels import check_counts, check_levels, per_level
from ..layers.token_attention import TokenAttention, check_heads, clear_masked
from ..layers.tokens import to_map, to_tokens

_SHOWN = 8  # maps per level


class PromptBlock(nn.Module):
    """Attention from places to prompt tokens, then MixFFN; both pre-normed.

    Args:
        dim: Channels C of the map.
        prompt_channels: Channels of the prompt tokens.
        heads: Attention heads; C is a multiple.
        mlp_ratio: Hidden channels of the MixFFN over C.
        drop_path: Rate of stochastic depth.
    """

    def __init__(
        self,
        dim: int,
        prompt_channels: int,
        heads: int,
        mlp_ratio: int,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.norm_prompt = nn.LayerNorm(prompt_channels)
        self.attn = TokenAttention(dim, heads, prompt_channels)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MixFFN(dim, mlp_ratio * dim)
        self.drop_path = DropPath(drop_path)

    def forward(
        self, x: Tensor, tokens: Tensor, mask: Tensor | None, size: tuple[int, int]
    ) -> Tensor:
        """(B, L, C), (B, N, prompt_channels) and (B, N) to (B, L, C)."""
        x = x + self.drop_path(self.attn(self.norm1(x), self.norm_prompt(tokens), mask))
        return x + self.drop_path(self.mlp(self.norm2(x), size))

    def weights(self, x: Tensor, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """Attention of each place to each token, (B, L, N)."""
        return self.attn.weights(self.norm1(x), self.norm_prompt(tokens), mask, 0)


@MODELS.register_module()
class PromptAttentionNeck(BaseModule):
    """Every place of every level attends to the tokens of a prompt.

    Without a prompt it attends to learned class tokens, so it also stands in an
    ordinary ``EncoderDecoder``. Masked tokens have no influence, whatever they hold; a
    sample whose tokens are all masked gets no attention output. The prompt may have
    another floating dtype than the neck.

    Args:
        in_channels: Channels C per level; also of the output.
        prompt_channels: Channels of the prompt tokens.
        num_tokens: Learned tokens that stand in where no prompt is given; 0 = a prompt
            is required.
        num_heads: One number or one per level; None = one per 32 channels.
        depth: Blocks per level.
        mlp_ratio: Hidden channels of the feed-forward layers over C.
        drop_path_rate: Stochastic depth.
        init_cfg: As in mmengine.

    Shape:
        - input: (B, C, h, w) per level; prompt tokens (B, N, prompt_channels).
        - output: as the input.

    Raises:
        ValueError: If a setting does not fit the levels.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        prompt_channels: int = 256,
        num_tokens: int = 0,
        num_heads: int | Sequence[int] | None = None,
        depth: int = 1,
        mlp_ratio: int = 2,
        drop_path_rate: float = 0.0,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg)
        check_counts(
            self, prompt_channels=prompt_channels, depth=depth, mlp_ratio=mlp_ratio
        )
        if num_tokens:
            check_counts(self, num_tokens=num_tokens)
        self.in_channels = tuple(in_channels)
        self.prompt_channels = prompt_channels
        heads = per_level('num_heads', num_heads, len(self.in_channels))
        self.levels = ModuleList(
            ModuleList(
                PromptBlock(
                    dim,
                    prompt_channels,
                    check_heads(type(self).__name__, dim, heads[i]),
                    mlp_ratio,
                    drop_path_rate,
                )
                for _ in range(depth)
            )
            for i, dim in enumerate(self.in_channels)
        )
        self.tokens: nn.Parameter | None = None
        if num_tokens:
            self.tokens = nn.Parameter(torch.empty(num_tokens, prompt_channels))
            nn.init.trunc_normal_(self.tokens, std=1.0)
        self.probe = MapProbe()
        segformer_init(self)

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of the output maps."""
        return self.in_channels

    def forward(
        self, inputs: Sequence[Tensor], prompt: PromptFeatures | None = None
    ) -> tuple[Tensor, ...]:
        """Return the pyramid.

        Raises:
            TypeError: If the prompt is no :class:`PromptFeatures`.
            ValueError: If the levels or the prompt do not fit, or there is no prompt
                and no learned token.
        """
        check_levels(self, inputs, self.in_channels)
        tokens, mask = self._sequence(inputs[0], prompt)
        outs, maps = [], []
        for i, level in enumerate(inputs):
            size = (level.shape[2], level.shape[3])
            x = to_tokens(level)
            for block in self.levels[i]:
                if self.probe.is_watched and block is self.levels[i][-1]:
                    maps += self._maps(i, block.weights(x, tokens, mask), size)
                x = block(x, tokens, mask, size)
            outs.append(to_map(x, size))
        if self.probe.is_watched:
            self.probe(maps)
        return tuple(outs)

    def _sequence(
        self, like: Tensor, prompt: PromptFeatures | None
    ) -> tuple[Tensor, Tensor | None]:
        """Tokens (B, N, prompt_channels) and their mask."""
        learned: Any = self.tokens
        if prompt is None:
            if learned is None:
                raise ValueError(
                    'PromptAttentionNeck got no prompt and has num_tokens=0, expected '
                    'one of both. Set num_tokens in the config, for instance to the '
                    'number of classes (learned tokens), or call forward(..., prompt='
                    'PromptFeatures(tokens)) from Python, which no segmentor does.'
                )
            return learned.expand(like.shape[0], -1, -1), None
        if not isinstance(prompt, PromptFeatures):
            raise TypeError(
                f'PromptAttentionNeck: prompt got {type(prompt).__name__}, expected '
                'PromptFeatures. Pass prompt=PromptFeatures(tokens).'
            )
        batch, shape = like.shape[0], tuple(prompt.tokens.shape)
        if shape[0] != batch or shape[2] != self.prompt_channels:
            raise ValueError(
                f'The prompt tokens have the shape {shape}, expected ({batch}, N, '
                f'{self.prompt_channels}): batch of the maps, and prompt_channels of '
                'PromptAttentionNeck. Change prompt_channels or the prompt encoder.'
            )
        tokens = clear_masked(prompt.tokens, prompt.mask)
        # Encoders often run in half precision, whatever the neck does.
        tokens = tokens.to(self.levels[0][0].norm_prompt.weight.dtype)
        if self.training and learned is not None:
            # Connected, so that distributed training finds every gradient.
            tokens = tokens + 0 * learned.sum()
        return tokens, prompt.mask

    def _maps(
        self, level: int, weights: Tensor, size: tuple[int, int]
    ) -> list[ShownMap]:
        return [
            ShownMap(
                f'level {level}: attention to token {n}',
                weights[..., n].unflatten(1, size),
            )
            for n in range(min(weights.shape[2], _SHOWN))
        ]
