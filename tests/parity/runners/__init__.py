"""Runners: how to compute the outputs of a fixture with our parts.

``RUNNERS`` maps an official repository to a function from a :class:`Fixture` to the
outputs by name. It raises :class:`NoRunner` for variants that are not built yet.
A fixture of several parts is computed as far as there are runners; the exception brings
what that gave.
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
from .names import plain_repository
from .stitchfusion import REPOSITORY as STITCHFUSION_REPOSITORY
from .stitchfusion import run_stitchfusion

Runner = Callable[[Fixture], dict[str, Tensor]]
RUNNERS: dict[str, Runner] = {
    CMNEXT_REPOSITORY: run_cmnext,
    CMX_REPOSITORY: run_cmx,
    DFORMER_REPOSITORY: run_dformer_family,
    GEMINIFUSION_REPOSITORY: run_geminifusion,
    LIBMTL_REPOSITORY: run_mtl_balancing,
    MIC_REPOSITORY: run_mic,
    MMSFORMER_REPOSITORY: run_mmsformer,
    STITCHFUSION_REPOSITORY: run_stitchfusion,
    # Other names of the same code, and repositories that a fixture shares with others.
    'https://github.com/InSAI-Lab/DELIVER': run_cmnext,
    'https://github.com/LiBingyu01/StitchFusion': run_stitchfusion,
    'https://github.com/SimonVandenhende/Multi-Task-Learning-PyTorch': (
        run_mtl_balancing
    ),
    'https://github.com/YanchaoYang/FDA': run_mic,
    'https://github.com/lhoyer/DAFormer': run_mic,
    'https://github.com/lhoyer/HRDA': run_mic,
    'https://github.com/valeoai/ADVENT': run_mic,
    'https://github.com/vikolss/DACS': run_mic,
}


def find_runner(fixture: Fixture) -> Runner | None:
    """Find the runner of the first repository that has one, however it is spelled."""
    known = {plain_repository(url): runner for url, runner in RUNNERS.items()}
    for repository in fixture.repositories:
        if (runner := known.get(plain_repository(repository))) is not None:
            return runner
    return None


def run(fixture: Fixture) -> dict[str, Tensor]:
    """Run a fixture.

    Raises:
        NoRunner: If there is none for its repository or variant.
    """
    runner = find_runner(fixture)
    if runner is None:
        raise NoRunner(f'{fixture.name}: no runner for {fixture.repositories}')
    return runner(fixture)


def run_and_compare(fixture: Fixture) -> dict[str, float]:
    """Run a fixture and compare; a part without a runner hides no other.

    Returns:
        Largest difference by name.

    Raises:
        AssertionError: If anything that has a runner differs.
        NoRunner: Else, if anything has none.
    """
    try:
        outputs = run(fixture)
    except NoRunner as reason:
        if reason.outputs:
            fixture.compare(reason.outputs, reason.arrays)
        raise
    return fixture.compare(outputs)


__all__ = ['RUNNERS', 'find_runner', 'run', 'run_and_compare']
