"""Fixtures of several sections: what they record, and what is computed of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..fixture import Fixture, NoRunner

# An output by name, computed only where the fixture has recorded it.
Outputs = dict[str, Callable[[], Tensor]]


class Section(NamedTuple):
    """The arrays of the fixture, and one section of its settings.

    Args:
        name: ``fixture/section``, for messages.
        arrays: All that the fixture has recorded.
        spec: Of this section.
    """

    name: str
    arrays: Mapping[str, Tensor]
    spec: Mapping[str, Any]

    def like(self, pattern: str) -> Iterator[tuple[str, ...]]:
        """Groups of the pattern, for every array that it fits."""
        for name in self.arrays:
            if match := re.fullmatch(pattern, name):
                yield match.groups()

    def stated(self, key: str, pattern: str) -> tuple[str, ...]:
        """Groups of a pattern in a text of the section.

        Raises:
            NoRunner: If it is not there: nothing is assumed in its place.
        """
        match = re.search(pattern, str(self.spec.get(key, '')))
        if not match:
            raise NoRunner(
                f'{self.name}: no runner without {pattern!r} in {key!r}, which is '
                f'{self.spec.get(key)!r}'
            )
        return match.groups()


def load(fixture: Fixture) -> dict[str, Tensor]:
    """The arrays of a fixture as tensors."""
    return {name: torch.from_numpy(a) for name, a in fixture.arrays().items()}


def recorded_only(arrays: Mapping[str, Tensor], outputs: Outputs) -> dict[str, Tensor]:
    """Compute the outputs that are recorded."""
    return {name: compute() for name, compute in outputs.items() if name in arrays}


def finish(
    fixture: Fixture,
    arrays: Mapping[str, Tensor],
    outputs: Mapping[str, Tensor],
    inputs: str,
) -> dict[str, Tensor]:
    """Give the outputs the recorded types; nothing recorded may be left over.

    Args:
        fixture: Where it all is from.
        arrays: All that it has recorded.
        outputs: What we have computed.
        inputs: Pattern of the names of arrays that are given.
    """
    given = {n: a for n, a in arrays.items() if re.fullmatch(inputs, n)}
    left = set(arrays) - set(given) ^ set(outputs)
    assert not left, f'recorded and not computed, or the reverse: {sorted(left)}'
    assert outputs, f'{fixture.name} has recorded no output'
    typed = {k: v.detach().to(arrays[k].dtype) for k, v in outputs.items()}
    # Where tolerances stand beside the arrays, inputs have one too.
    beside = any('rtol' in spec for spec in fixture.meta.get('arrays', {}).values())
    return typed | given if beside else typed
