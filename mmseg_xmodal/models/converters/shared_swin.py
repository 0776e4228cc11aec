"""Swin weights of any known layout into a Swin that streams share."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from torch import Tensor

from .mit import Converted
from .swin import convert_swin

# Norms that are each stream's own: of the patch embedding and of the output.
_OWN = re.compile(r'(patch_embed\.norm|stages\.\d+\.norm)\.(weight|bias)')


def _places(key: str, streams: int, state: Mapping[str, Tensor]) -> list[str]:
    """Where an entry goes; a stream that has a norm in ``state`` keeps it."""
    match = _OWN.fullmatch(key)
    if match is None:
        return [key]
    own = [f'{match[1]}.{stream}.{match[2]}' for stream in range(streams)]
    return [name for name in own if name not in state]


def convert_shared_swin(state: Mapping[str, Tensor], streams: int = 2) -> Converted:
    """Convert Swin weights; the norms that are each stream's own get the same ones.

    Args:
        state: Source key to tensor, see :func:`convert_swin`. Norms that are already
            one per stream stay as they are.
        streams: Number of streams.

    Returns:
        State dict of :class:`SharedSwin`, the layout, what was skipped, and what is
        new.

    Raises:
        ValueError: If the layout is unknown, or a key fits no rule.
    """
    converted = convert_swin(state)
    places = {key: _places(key, streams, converted.state) for key in converted.state}
    return dataclasses.replace(
        converted,
        state={
            own: value for key, value in converted.state.items() for own in places[key]
        },
        new=tuple(own for key in converted.new for own in places[key]),
    )
