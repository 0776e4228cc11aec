"""Runners: how to compute the outputs of a fixture with our parts.

``RUNNERS`` maps an official repository to a function from a :class:`Fixture` to the
outputs by name. It raises :class:`NoRunner` for variants that are not built yet.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..fixture import Fixture, NoRunner
from .cmnext import REPOSITORY as CMNEXT_REPOSITORY
from .cmnext import run_cmnext
from .cmx import REPOSITORY as CMX_REPOSITORY
from .cmx import run_cmx
from .dformer import REPOSITORY as DFORMER_REPOSITORY
from .dformer import run_dformer_family
from .geminifusion import REPOSITORY as GEMINIFUSION_REPOSITORY
from .geminifusion import run_geminifusion
from .mic import REPOSITORY as MIC_REPOSITORY
from .mic import run_mic
from .mmsformer import REPOSITORY as MMSFORMER_REPOSITORY
from .mmsformer import run_mmsformer
from .mtl_balancing import REPOSITORY as LIBMTL_REPOSITORY
from .mtl_balancing import run_mtl_balancing
from .stitchfusion import REPOSITORY as STITCHFUSION_REPOSITORY
from .stitchfusion import run_stitchfusion

RUNNERS: dict[str, Callable[[Fixture], dict[str, Tensor]]] = {
    CMNEXT_REPOSITORY: run_cmnext,
    CMX_REPOSITORY: run_cmx,
    DFORMER_REPOSITORY: run_dformer_family,
    GEMINIFUSION_REPOSITORY: run_geminifusion,
    LIBMTL_REPOSITORY: run_mtl_balancing,
    MIC_REPOSITORY: run_mic,
    MMSFORMER_REPOSITORY: run_mmsformer,
    STITCHFUSION_REPOSITORY: run_stitchfusion,
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
