"""Some samples of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def pick(maps: Any, places: Sequence[int]) -> Any:
    """Samples of a batch, in any nest of tuples, lists and dicts of maps.

    Args:
        maps: The nest. Where all samples are wanted its maps are handed on as they are,
            and samples in a row share their memory.
        places: Of the samples; at least one.

    Shape:
        - maps: (B, ...) each
        - output: (len(places), ...) each
    """
    if isinstance(maps, Tensor):
        first, last = places[0], places[-1]
        if list(places) == list(range(first, last + 1)):
            whole = len(places) == len(maps)
            return maps if whole else maps[first : last + 1]
        return maps.index_select(0, torch.tensor(places, device=maps.device))
    if isinstance(maps, Mapping):
        return {key: pick(value, places) for key, value in maps.items()}
    if isinstance(maps, list | tuple):
        return type(maps)(pick(value, places) for value in maps)
    return maps
