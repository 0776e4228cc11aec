"""Fixtures of several sections: what they record, and what is computed of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
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


class Parts:
    """The outputs of a fixture; a part without a runner is named, and loses no other.

    Args:
        fixture: With any arrays.
        inputs: Pattern of the names of arrays that are given.
    """

    def __init__(self, fixture: Fixture, inputs: str = '') -> None:
        self.name, self.inputs, self.arrays = fixture.name, inputs, load(fixture)
        self.outputs: dict[str, Tensor] = {}
        self.reasons: list[str] = []
        self.without: set[str] = set()

    def add(
        self, names: Iterable[str], compute: Callable[[], Mapping[str, Tensor]]
    ) -> None:
        """Compute a part; what is not recorded of it is dropped.

        Args:
            names: Recorded arrays of the part, which have no runner if it has none.
            compute: Gives outputs by name, or raises :class:`NoRunner`.
        """
        try:
            found = compute()
        except NoRunner as reason:
            self.lack(str(reason), names)
        else:
            self.outputs |= {k: v for k, v in found.items() if k in self.arrays}

    def add_each(self, outputs: Outputs) -> None:
        """Compute what is recorded of a part, each array for itself."""
        for name, compute in outputs.items():
            if name in self.arrays:
                self.add([name], lambda name=name, own=compute: {name: own()})

    def lack(self, reason: str, names: Iterable[str]) -> None:
        """Name arrays without a runner."""
        if not reason.startswith(self.name):
            reason = f'{self.name}: {reason}'
        if reason not in self.reasons:
            self.reasons.append(reason)
        self.without |= set(names)

    def under(self, prefix: str) -> list[str]:
        """Recorded arrays whose names begin with this."""
        return [name for name in self.arrays if name.startswith(prefix)]

    def finish(self) -> dict[str, Tensor]:
        """The outputs in the recorded types, and the arrays that are given.

        Raises:
            NoRunner: If a part has none; it brings what the others have computed.
        """
        given = {n: a for n, a in self.arrays.items() if re.fullmatch(self.inputs, n)}
        outputs = {
            k: v.detach().to(self.arrays[k].dtype) for k, v in self.outputs.items()
        } | given
        left = sorted(set(self.arrays) - set(outputs) - self.without)
        assert not left, f'{self.name}: recorded and not computed: {left}'
        if self.reasons:
            raise NoRunner('; '.join(self.reasons), outputs, self.without)
        assert self.outputs, f'{self.name} has recorded no output'
        return outputs
