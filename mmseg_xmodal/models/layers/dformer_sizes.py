"""Sizes of DFormer (https://arxiv.org/abs/2309.09668)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from .variants import look_up


@dataclasses.dataclass(frozen=True)
class DFormerVariant:
    """Size of a DFormer.

    Args:
        embed_dims: Channels of each stage in the first stream; the second has half.
        depths: Blocks of each stage.
        num_heads: Heads of the pooled attention.
        mlp_ratios: Hidden channels of the MLPs per channel.
        windows: Queries per side of the pooled attention; 0 = no such attention.

    Raises:
        ValueError: If the lengths differ, or channels are no multiple of what they are
            divided by.
    """

    embed_dims: tuple[int, ...]
    depths: tuple[int, ...]
    num_heads: tuple[int, ...] = (1, 2, 4, 8)
    mlp_ratios: tuple[int, ...] = (8, 8, 4, 4)
    windows: tuple[int, ...] = (0, 7, 7, 7)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, tuple(getattr(self, field.name)))
        lengths = {f.name: len(getattr(self, f.name)) for f in dataclasses.fields(self)}
        if len(set(lengths.values())) > 1:
            raise ValueError(
                f'variant has the lengths {lengths}, expected equal ones (one entry '
                'per stage). Change `variant` of the backbone.'
            )
        for i, dim in enumerate(self.embed_dims):
            divisor = 4 if i == 0 else 2
            if self.windows[i]:
                divisor = max(divisor, 2 * self.num_heads[i])
            if dim % divisor:
                raise ValueError(
                    f'variant has embed_dims={self.embed_dims} and '
                    f'num_heads={self.num_heads}: {dim} in stage {i + 1} is no '
                    f'multiple of {divisor}. Change `variant` of the backbone.'
                )


DFORMER_VARIANTS: dict[str, DFormerVariant] = {
    'dformer_tiny': DFormerVariant((32, 64, 128, 256), (3, 3, 5, 2)),
    'dformer_small': DFormerVariant((64, 128, 256, 512), (2, 2, 4, 2)),
    'dformer_base': DFormerVariant((64, 128, 256, 512), (3, 3, 12, 2)),
    'dformer_large': DFormerVariant((96, 192, 288, 576), (3, 3, 12, 2)),
}


def dformer_variant(
    variant: str | DFormerVariant | Mapping[str, Any],
) -> DFormerVariant:
    """Look a size up.

    Args:
        variant: Name, fields of :class:`DFormerVariant`, or one itself.

    Raises:
        ValueError: If the name is unknown, or the fields do not fit.
    """
    return look_up(variant, DFormerVariant, DFORMER_VARIANTS, 'DFormer')
