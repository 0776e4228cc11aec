"""Runners: how to compute the outputs of a fixture with our parts.

``RUNNERS`` maps an official repository to a function from a :class:`Fixture` to the
outputs by name. It raises :class:`NoRunner` for variants that are not built yet.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..fixture import Fixture, NoRunner
from .cmx import REPOSITORY as CMX_REPOSITORY
from .cmx import run_cmx

RUNNERS: dict[str, Callable[[Fixture], dict[str, Tensor]]] = {
    CMX_REPOSITORY: run_cmx,
}


def run(fixture: Fixture) -> dict[str, Tensor]:
    """Run a fixture.

    Raises:
        NoRunner: If there is none for its repository or variant.
    """
    for repository in fixture.repositories:
        if repository in RUNNERS:
            return RUNNERS[repository](fixture)
    raise NoRunner(f'{fixture.name}: no runner for {fixture.repositories}')


__all__ = ['RUNNERS', 'run']
