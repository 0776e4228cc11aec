"""Sizes of DFormerv2, for the backbone and for the converter of its checkpoints."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from .variants import look_up


@dataclasses.dataclass(frozen=True)
class DFormerv2Variant:
    """Size of a DFormerv2; four entries each, one per stage.

    Args:
        embed_dims: Channels.
        depths: Blocks.
        num_heads: Attention heads.
        ranges: How far the decays of the heads are apart, see :func:`decay_rates`.
        mlp_ratios: Hidden channels of the FFN per channel.
        layer_scale: Whether a learned factor per channel scales the branches.
        full: Whether each place attends to all, or to its row and then its column.

    Raises:
        ValueError: If there are not four stages, or channels are no even multiple of
            the heads.
    """

    embed_dims: tuple[int, ...]
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    ranges: tuple[float, ...] = (5, 5, 6, 6)
    mlp_ratios: tuple[int, ...] = (4, 4, 3, 3)
    layer_scale: tuple[bool, ...] = (False, False, True, True)
    full: tuple[bool, ...] = (False, False, False, True)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = tuple(getattr(self, field.name))
            object.__setattr__(self, field.name, value)
            if len(value) != 4:
                raise ValueError(
                    f'variant has {field.name}={value}, expected four entries (one '
                    'per stage). Change `variant` of the backbone.'
                )
        for dim, heads in zip(self.embed_dims, self.num_heads, strict=True):
            if dim % (2 * heads):
                raise ValueError(
                    f'variant has embed_dims={self.embed_dims} and '
                    f'num_heads={self.num_heads}: {dim} is no multiple of 2 * {heads}. '
                    'Change `variant` of the backbone.'
                )


DFORMERV2_VARIANTS: dict[str, DFormerv2Variant] = {
    'dformerv2_s': DFormerv2Variant(
        (64, 128, 256, 512),
        (3, 4, 18, 4),
        (4, 4, 8, 16),
        (4, 4, 6, 6),
        layer_scale=(False, False, False, False),
    ),
    'dformerv2_b': DFormerv2Variant(
        (80, 160, 320, 512), (4, 8, 25, 8), (5, 5, 10, 16), (5, 5, 6, 6)
    ),
    'dformerv2_l': DFormerv2Variant(
        (112, 224, 448, 640), (4, 8, 25, 8), (7, 7, 14, 20), (6, 6, 6, 6)
    ),
}


def dformerv2_variant(
    variant: str | DFormerv2Variant | Mapping[str, Any],
) -> DFormerv2Variant:
    """Look a size up.

    Args:
        variant: Name, fields of :class:`DFormerv2Variant`, or one itself.

    Raises:
        ValueError: If the name is unknown, or the fields do not fit.
    """
    return look_up(variant, DFormerv2Variant, DFORMERV2_VARIANTS, 'DFormerv2')
