"""MiT weights of any known layout into a MiT that streams share."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from torch import Tensor

from .mit import Converted, convert_mit


def convert_shared_mit(state: Mapping[str, Tensor], streams: int = 2) -> Converted:
    """Convert MiT weights; every stream's LayerNorms get the same ones.

    Args:
        state: Source key to tensor.
        streams: Number of streams.

    Returns:
        State dict of :class:`SharedMixTransformer`, the layout, and what was skipped.

    Raises:
        ValueError: If the layout is unknown, or a key fits no rule.
    """
    converted = convert_mit(state)
    shared: dict[str, Tensor] = {}
    for key, value in converted.state.items():
        owner, _, leaf = key.rpartition('.')
        if owner.rpartition('.')[2].startswith('norm'):
            shared |= {f'{owner}.{stream}.{leaf}': value for stream in range(streams)}
        else:
            shared[key] = value
    return dataclasses.replace(converted, state=shared)
