"""Sizes of Swin Transformers.

Paper: Swin Transformer, 2021, https://arxiv.org/abs/2103.14030. Official code:
https://github.com/microsoft/Swin-Transformer (MIT).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from .variants import look_up


@dataclasses.dataclass(frozen=True)
class SwinVariant:
    """Size of a Swin Transformer.

    Args:
        embed_dim: Channels of the first stage; each further one has twice as many.
        depths: Blocks of each stage.
        num_heads: Attention heads of each stage.
        window: Tokens per side of a window.

    Raises:
        ValueError: If the lengths differ, or channels are no multiple of heads.
    """

    embed_dim: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    window: int = 7

    def __post_init__(self) -> None:
        object.__setattr__(self, 'depths', tuple(self.depths))
        object.__setattr__(self, 'num_heads', tuple(self.num_heads))
        if len(self.depths) != len(self.num_heads):
            raise ValueError(
                f'variant has depths={self.depths} and num_heads={self.num_heads}, '
                'expected equal lengths (one entry per stage). Change `variant` of '
                'the backbone.'
            )
        for dim, heads in zip(self.embed_dims, self.num_heads, strict=True):
            if dim % heads:
                raise ValueError(
                    f'variant has embed_dims={self.embed_dims} and '
                    f'num_heads={self.num_heads}: {dim} is no multiple of {heads}. '
                    'Change `variant` of the backbone.'
                )

    @property
    def embed_dims(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return tuple(self.embed_dim * 2**i for i in range(len(self.depths)))


_DEEP = (2, 2, 18, 2)
_B, _L = (4, 8, 16, 32), (6, 12, 24, 48)
SWIN_VARIANTS: dict[str, SwinVariant] = {
    'swin_t': SwinVariant(96, (2, 2, 6, 2), (3, 6, 12, 24)),
    'swin_s': SwinVariant(96, _DEEP, (3, 6, 12, 24)),
    'swin_b': SwinVariant(128, _DEEP, _B),
    'swin_l': SwinVariant(192, _DEEP, _L),
    'swin_b_384': SwinVariant(128, _DEEP, _B, 12),
    'swin_l_384': SwinVariant(192, _DEEP, _L, 12),
}


def swin_variant(variant: str | SwinVariant | Mapping[str, Any]) -> SwinVariant:
    """Look a size up.

    Args:
        variant: Name, fields of :class:`SwinVariant`, or one itself.

    Raises:
        ValueError: If the name is unknown, or the fields do not fit.
    """
    return look_up(variant, SwinVariant, SWIN_VARIANTS, 'Swin')
