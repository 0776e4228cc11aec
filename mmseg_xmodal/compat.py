"""Every shim between the supported stacks, each with the version that retires it."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

_ONEDL = (
    'pip install "onedl-mmengine>=0.10.12" "onedl-mmcv>=2.3.6" '
    '"onedl-mmsegmentation>=1.4.2"'
)
_OPENMMLAB = (
    'pip install "setuptools<81" mmengine==0.10.7 mmsegmentation==1.2.2 ftfy regex && '
    'pip install --no-build-isolation mmcv==2.1.0'
)

# distribution -> tested half-open range [low, high)
_TESTED = {
    'torch': ('2.4', '2.14'),
    'onedl-mmengine': ('0.10.12', '0.11'),
    'onedl-mmcv': ('2.3.6', '2.4'),
    'onedl-mmsegmentation': ('1.4.2', '1.5'),
    'mmengine': ('0.10.7', '0.10.8'),
    'mmcv': ('2.1.0', '2.1.1'),
    'mmsegmentation': ('1.2.2', '1.2.3'),
}


def require_stack() -> None:
    """Check that one mmseg stack can be imported.

    Raises:
        ImportError: If ``mmengine``, ``mmcv`` or ``mmseg`` is absent. The message
            holds the working install commands of both stacks.
    """
    missing = [
        name
        for name in ('mmengine', 'mmcv', 'mmseg')
        if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise ImportError(
            f'mmseg_xmodal needs one MMSegmentation stack, but {", ".join(missing)} '
            'cannot be imported. Install torch first, then ONE of the two:\n'
            f'  maintained forks (no compiler needed):\n    {_ONEDL}\n'
            "  OpenMMLab's last releases (mmcv compiles for 20 to 40 minutes unless "
            f'you have a wheel):\n    {_OPENMMLAB}'
        )


def import_extra(name: str, extra: str) -> Any:
    """Import an optional package.

    By name, so that neither mypy nor a plain import of ours needs it.

    Args:
        name: Module, such as ``'timm'``.
        extra: Extra of ours that brings it.

    Returns:
        The module.

    Raises:
        ImportError: If it is absent or broken, with the command that installs it.
    """
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError) as error:
        hint = ''
        if 'torchvision' in str(error):
            # timm needs torchvision's Python part; the wheel for CUDA cannot be
            # imported beside a torch for the CPU, and fails with a RuntimeError.
            hint = (
                ' Beside a torch for the CPU, torchvision must be one for the CPU: pip '
                'install torchvision --index-url https://download.pytorch.org/whl/cpu'
            )
        raise ImportError(
            f'{name} cannot be imported ({error}). It comes with '
            f"pip install 'mmseg_xmodal[{extra}]'.{hint}"
        ) from error


def warn_untested_versions() -> list[str]:
    """Warn, never fail, about installed versions outside the tested set.

    Returns:
        The lines of the warning, empty when every version is inside.
    """
    from mmengine.utils import digit_version

    lines = []
    for name, (low, high) in _TESTED.items():
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if not digit_version(low) <= digit_version(version) < digit_version(high):
            lines.append(f'{name} {version} (tested: >={low},<{high})')
    if lines:
        warnings.warn(
            'mmseg_xmodal was not tested with ' + '; '.join(lines) + '. It may well '
            'work; if it does not, install a version inside the range.',
            stacklevel=3,
        )
    return lines


def _history_buffer_method(owner: Any, name: str) -> Callable:
    """Stand in for ``getattr`` while a checkpoint is unpickled.

    mmengine pickles ``HistoryBuffer`` with its bound statistics methods, hence with
    calls of ``builtins.getattr``. The builtin would let a crafted file reach any
    attribute of any allowed object; this function reaches methods of one class.
    """
    from mmengine.logging import HistoryBuffer

    # The methods are registered by the first instance, which a process that only
    # tests has not made yet.
    HistoryBuffer()
    if owner is not HistoryBuffer or name not in HistoryBuffer._statistics_methods:
        raise ValueError(
            f'The checkpoint asks for getattr({owner!r}, {name!r}); only the '
            'statistics methods of mmengine.logging.HistoryBuffer are allowed. Load '
            'the file only if you trust its author: torch.load(path, '
            'weights_only=False), then save the state_dict alone.'
        )
    return HistoryBuffer._statistics_methods[name]


def allow_mmengine_checkpoints() -> None:
    """Let torch >= 2.6 read the checkpoints that mmengine writes.

    mmengine 0.10.7 calls ``torch.load`` without arguments, which since torch 2.6 means
    ``weights_only=True`` and refuses the training history that mmengine itself puts
    into every checkpoint. The types of that history become safe globals, ``getattr``
    in a restricted form only. Retire with the last mmengine without
    ``_safe_torch_load`` (0.10.7).
    """
    import numpy as np
    import torch
    from mmengine.utils import digit_version

    # Before 2.6 mmengine's own call means weights_only=False and needs no list, and a
    # pair, which names another global than its own, is not understood.
    if digit_version(torch.__version__) < digit_version('2.6.0'):
        return
    from mmengine.logging import HistoryBuffer

    multiarray = importlib.import_module(
        f'numpy.{"_core" if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else "core"}'
        '.multiarray'
    )
    allowed: list[Any] = [
        HistoryBuffer,
        (_history_buffer_method, 'builtins.getattr'),
        multiarray._reconstruct,
        multiarray.scalar,
        np.ndarray,
        np.dtype,
        *{type(np.dtype(t)) for t in ('float64', 'float32', 'int64', 'int32')},
    ]
    torch.serialization.add_safe_globals(allowed)
