"""Run mmseg's own tools in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import mmseg

from tests import python_process

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / 'tests' / 'configs' / 'cmx_tiny.py'
TOOLS = Path(mmseg.__file__).parent / '.mim' / 'tools'
TIMEOUT = 900  # seconds; an ordinary run takes about eight on an idle machine


def environment() -> dict[str, str]:
    """One thread a process, and a folder-independent import of the tests."""
    paths = [str(ROOT), os.environ.get('PYTHONPATH', '')]
    return dict(
        os.environ,
        OMP_NUM_THREADS='1',
        MKL_NUM_THREADS='1',
        PYTHONPATH=os.pathsep.join(p for p in paths if p),
        GLOO_SOCKET_IFNAME='lo',
    )


def write_config(folder: Path, name: str, data_root: Path, **changes: Any) -> Path:
    """Write a config that inherits from ``cmx_tiny.py``.

    Args:
        folder: Receives the config; its ``work_dir`` is ``folder/name``.
        name: Stem of the config.
        data_root: The synthetic data.
        changes: Top-level values; dicts are merged into the inherited ones.
    """
    values: dict[str, Any] = dict(
        work_dir=str(folder / name),
        data_root=str(data_root),
        train_dataloader=dict(dataset=dict(data_root=str(data_root))),
        val_dataloader=dict(dataset=dict(data_root=str(data_root))),
        test_dataloader=dict(dataset=dict(data_root=str(data_root))),
        custom_imports=dict(imports=['tests.integration.hooks']),
    )
    for key, value in changes.items():
        values[key] = _merged(values.get(key), value)
    lines = [f'_base_ = [{str(TINY)!r}]']
    lines += [f'{key} = {value!r}' for key, value in values.items()]
    path = folder / f'{name}.py'
    path.write_text('\n'.join(lines) + '\n')
    return path


def _merged(old: Any, new: Any) -> Any:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    return {
        **old,
        **{key: _merged(old.get(key), value) for key, value in new.items()},
    }


def run_tool(
    name: str, *args: object, killed: bool = False, encoders: bool = False
) -> str:
    """Run ``train.py`` or ``test.py`` of the installed mmseg.

    Args:
        name: Name of the tool.
        args: Its command line.
        killed: The process is expected to die of SIGKILL.
        encoders: Whether ``transformers`` may be imported: the process is then
            started anew, which takes seconds.

    Returns:
        What it printed.
    """
    return run_python(str(TOOLS / name), *args, killed=killed, encoders=encoders)


def run_python(*args: object, killed: bool = False, encoders: bool = False) -> str:
    """Run this Python, and check how it ended."""
    if encoders:
        done = subprocess.run(
            [sys.executable, *map(str, args)],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
    else:
        done = python_process.run(*args, env=environment(), timeout=TIMEOUT, join=True)
    expected = -9 if killed else 0
    assert done.returncode == expected, f'{done.returncode}:\n{done.stdout[-6000:]}'
    return done.stdout
