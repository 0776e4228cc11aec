"""Where a module shows its attention or gate maps to whoever wants to see them."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from functools import partial

from torch import Tensor, nn


@dataclasses.dataclass(frozen=True)
class ShownMap:
    """A map per sample that a module shows.

    Args:
        title: What it is, such as ``'level 0: gate of {0}'``; ``{i}`` stands for the
            name of stream i.
        values: One value per place.
        limits: Values at the two ends of the colours; None = the map's own range.

    Shape:
        - values: (B, h, w)
    """

    title: str
    values: Tensor
    limits: tuple[float, float] | None = None


class MapProbe(nn.Module):
    """Stands in a neck; idle, and free, unless someone watches.

    A module asks :attr:`is_watched` before it computes maps that it does not need
    itself, and calls the probe with a list of :class:`ShownMap`.
    """

    @property
    def is_watched(self) -> bool:
        """Whether a forward hook is registered."""
        return len(self._forward_hooks) > 0

    def forward(self, maps: list[ShownMap]) -> list[ShownMap]:
        """Hand the maps to the hooks; returns them as they are."""
        return maps


@contextlib.contextmanager
def watch(model: nn.Module) -> Iterator[dict[str, list[ShownMap]]]:
    """Collect the maps of all probes below ``model`` while the context is open.

    Returns:
        A dict that fills while the model runs: name of the module that holds the
        probe to its maps, of the latest pass.
    """
    found: dict[str, list[ShownMap]] = {}

    def collect(
        name: str, probe: nn.Module, args: object, maps: list[ShownMap]
    ) -> None:
        found[name] = maps

    handles = [
        module.register_forward_hook(partial(collect, name.rpartition('.')[0]))
        for name, module in model.named_modules()
        if isinstance(module, MapProbe)
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
