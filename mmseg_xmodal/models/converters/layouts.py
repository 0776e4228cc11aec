"""One network, several layouts of its weights: find it, translate every entry."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from .io import shorten

State = Mapping[str, Tensor]


def split_backbone(state: State) -> tuple[State, list[str]]:
    """Take a prefix ``backbone.`` off.

    Returns:
        The backbone's weights, and the keys of the other parts of that model.
    """
    prefix = 'backbone.'
    inside = {
        k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)
    }
    if not inside:
        return state, []
    return inside, [key for key in state if not key.startswith(prefix)]


def find_layout(state: State, marks: Mapping[str, str], network: str) -> str:
    """Tell the layout by a key that only it has.

    Args:
        state: Source key to tensor.
        marks: Layout to that key.
        network: For messages.

    Raises:
        ValueError: If it is none of them.
    """
    for layout, mark in marks.items():
        if mark in state:
            return layout
    known = ', '.join(f'{mark!r} ({layout})' for layout, mark in marks.items())
    raise ValueError(
        f'These are no {network} weights: the keys begin with {shorten(state, 5)}, '
        f'expected one of {known}. Change the checkpoint.'
    )


def translate_all(
    state: State,
    translate: Callable[[str, Tensor], Mapping[str, Tensor] | None],
    unused: Sequence[str],
    complaint: str,
) -> tuple[dict[str, Tensor], list[str]]:
    """Translate every entry.

    Args:
        state: Source key to tensor.
        translate: From an entry to ours; None for an unknown key.
        unused: Prefixes of keys that have no place (the classifier).
        complaint: Says in a message what was expected.

    Returns:
        Our state dict, and the keys without a place.

    Raises:
        ValueError: If another key is unknown.
    """
    converted: dict[str, Tensor] = {}
    skipped, unknown = [], []
    for key, value in state.items():
        entries = translate(key, value)
        if entries is not None:
            converted.update(entries)
        elif key.startswith(tuple(unused)):
            skipped.append(key)
        else:
            unknown.append(key)
    if unknown:
        raise ValueError(
            f'{len(unknown)} keys fit no rule of {complaint}: {shorten(unknown)}. '
            'Change the checkpoint.'
        )
    return converted, skipped
