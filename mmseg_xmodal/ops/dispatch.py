"""Which implementation runs: chosen openly, logged once, never changed by a failure.

``'auto'`` looks only at what is installed and at what it was given. A kernel that then
fails to compile or to launch raises; nothing is tried after it.
"""

from __future__ import annotations

import functools
import importlib
import logging
import os
from collections.abc import Sequence

import torch
from torch import Tensor

BACKENDS = ('auto', 'torch', 'triton', 'mmcv')
ENVIRONMENT = 'MMSEG_XMODAL_OPS_BACKEND'
TRITON_DTYPES = (torch.float16, torch.bfloat16, torch.float32)

LOGGER = logging.getLogger('mmseg_xmodal.ops')
LOGGER.setLevel(logging.INFO)
_logged: set[tuple[str, str, str]] = set()

_UNPROVEN = (
    'not all checks of its Triton kernel have run on a GPU yet: backend="triton" asks '
    'for it, tools/benchmark/ops.py --checks-only checks it'
)


def choose(
    op: str,
    requested: str,
    tensor: Tensor,
    offered: Sequence[str] = ('torch', 'triton'),
    argument: str = 'value',
    unfit: str | None = None,
    proven: bool = True,
) -> str:
    """Choose the back end of one call and check that it can take the tensor.

    Args:
        op: Name of the operation, for messages and the log.
        requested: What the caller passed as ``backend``.
        tensor: The tensor whose device and dtype decide.
        offered: Back ends that the operation has; ``'torch'`` is always one.
        argument: Name under which the caller passed ``tensor``.
        unfit: Why the Triton kernel has no form for these sizes; None if it has.
        proven: Whether its checks have passed on a GPU. If not, ``'auto'`` leaves it
            out, and ``'triton'`` asks for it.

    Returns:
        ``'torch'``, ``'triton'`` or ``'mmcv'``.

    Raises:
        ValueError: For an unknown back end, or a tensor that it cannot use.
        TypeError: For a dtype that it has no kernel for.
        RuntimeError: If it is not installed.
    """
    source = 'backend'
    if requested == 'auto' and os.environ.get(ENVIRONMENT, 'auto') != 'auto':
        requested, source = os.environ[ENVIRONMENT], ENVIRONMENT
    if requested not in BACKENDS:
        raise ValueError(
            f'{op}: {source} got {requested!r}, expected one of {list(BACKENDS)}.'
        )
    if requested == 'auto':
        choice, reason = _automatic(tensor, offered, unfit, proven)
    elif source == ENVIRONMENT and requested not in offered:
        # The variable speaks to all operations, and not every one has every back end.
        choice, reason = _automatic(tensor, offered, unfit, proven)
        reason = f'{reason}; it has no {requested!r}, which {ENVIRONMENT} asks for'
    else:
        choice, reason = requested, f'{source}={requested!r}'
        if choice not in offered:
            raise ValueError(
                f'{op}: {source} got {choice!r}, expected one of '
                f'{["auto", *offered]}: this operation has no other.'
            )
        _check(op, choice, tensor, argument, source)
        if choice == 'triton' and unfit:
            raise ValueError(
                f"{op}: {source} got 'triton', expected 'auto' or 'torch' here: "
                f'{unfit}. {_remedy(source)}.'
            )
    _log_once(op, choice, reason)
    return choice


def _automatic(
    tensor: Tensor, offered: Sequence[str], unfit: str | None, proven: bool
) -> tuple[str, str]:
    if not tensor.is_cuda:
        return 'torch', f'the tensors are on {tensor.device.type}, kernels need CUDA'
    reasons = []
    if 'triton' in offered:
        problem = triton_problem() or unfit or (None if proven else _UNPROVEN)
        if problem is None and tensor.dtype in TRITON_DTYPES:
            return 'triton', 'CUDA tensors and Triton is installed'
        reasons.append(problem or f'the Triton kernel has no {tensor.dtype}')
    if 'mmcv' in offered:
        problem = mmcv_problem()
        if torch.are_deterministic_algorithms_enabled():
            problem = problem or 'the gradient of mmcv is not deterministic'
        if problem is None:
            return 'mmcv', '; '.join([*reasons, 'mmcv has compiled operations'])
        reasons.append(problem)
    return 'torch', '; '.join(reasons) or 'it has no other'


def _remedy(source: str) -> str:
    """How to get another back end than the one that ``source`` asks for."""
    if source == ENVIRONMENT:
        return f"Unset {ENVIRONMENT} or pass backend='torch'"
    return "Use backend='torch'"


def _check(op: str, choice: str, tensor: Tensor, argument: str, source: str) -> None:
    if choice == 'torch':
        return
    interpreted = choice == 'triton' and triton_interpreted()
    if not tensor.is_cuda and not interpreted:
        raise ValueError(
            f"{op}: {argument} got a tensor on '{tensor.device}', expected one on "
            f"'cuda' for {source}={choice!r}. {_remedy(source)}, or move it to a CUDA "
            'device.'
        )
    problem = triton_problem() if choice == 'triton' else mmcv_problem()
    if problem:
        raise RuntimeError(
            f"{op}: {source} got {choice!r}, expected 'auto' or 'torch' here: "
            f'{problem}. {_remedy(source)}.'
        )
    if choice == 'triton' and tensor.dtype not in TRITON_DTYPES:
        raise TypeError(
            f'{op}: {argument} got {tensor.dtype}, expected one of '
            f"{list(TRITON_DTYPES)} for {source}='triton'. {_remedy(source)}."
        )


def triton_interpreted() -> bool:
    """Whether Triton kernels run in its interpreter, which takes CPU tensors."""
    return os.environ.get('TRITON_INTERPRET') == '1'


@functools.lru_cache(maxsize=1)
def triton_problem() -> str | None:
    """Say why Triton cannot be used, or None if it can be imported."""
    try:
        importlib.import_module('triton')
    except ImportError as error:
        return f'Triton cannot be imported ({error}): pip install triton'
    return None


@functools.lru_cache(maxsize=1)
def mmcv_problem() -> str | None:
    """Say why the compiled operations of mmcv cannot be used, or None if they can."""
    try:
        extension = importlib.import_module('mmcv._ext')
    except ImportError as error:
        return f'mmcv has no compiled operations here ({error})'
    if not hasattr(extension, 'ms_deform_attn_forward'):
        return 'mmcv._ext was compiled without ms_deform_attn_forward'
    return None


def _log_once(op: str, choice: str, reason: str) -> None:
    key = (op, choice, reason)
    if key not in _logged:
        _logged.add(key)
        if not LOGGER.hasHandlers():  # nobody set logging up: the line goes to stderr
            LOGGER.addHandler(logging.StreamHandler())
        LOGGER.info('%s: %s back end (%s)', op, choice, reason)
