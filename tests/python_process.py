"""A fresh Python that starts at once.

It is forked from one that has imported the stock stack and nothing of ours: importing
that takes six of the seven seconds of a short run of mmseg's tools.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
import tempfile
from collections.abc import Mapping
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from subprocess import CompletedProcess, TimeoutExpired
from unittest import mock

# Stands before the real package in processes that do not need it: mmengine imports
# `transformers` for one optimiser wherever it is installed, with all that it imports.
# Machines without the extra [encoders] are like this.
WITHOUT_TRANSFORMERS = Path(__file__).parent / 'without_transformers'
ROOT = Path(__file__).resolve().parents[1]


def start(
    *args: object,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdout: Path,
    stderr: Path | None = None,
) -> ForkServerProcess:
    """Start ``python ARGS``, without ``transformers``.

    Args:
        args: ``script.py ...``, ``-m module ...`` or ``-c code ...``.
        env: The environment, by default this process's.
        cwd: The working directory, by default this process's.
        stdout: File that receives what it prints.
        stderr: The same for errors, by default the same file.
    """
    environment = dict(os.environ if env is None else env)
    _ensure_server()
    process = multiprocessing.get_context('forkserver').Process(
        target=_main,
        args=(
            [str(arg) for arg in args],
            environment,
            str(cwd or Path.cwd()),
            str(stdout),
            str(stderr or stdout),
        ),
    )
    process.start()
    return process


def run(
    *args: object,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 900,
    join: bool = False,
) -> CompletedProcess[str]:
    """Run ``python ARGS`` to its end, as :func:`subprocess.run` does.

    Args:
        args: See :func:`start`.
        env: See :func:`start`.
        cwd: See :func:`start`.
        timeout: Seconds after which it is killed.
        join: Put errors into ``stdout``, where they happened.

    Raises:
        TimeoutExpired: It was killed.
    """
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, 'out'), Path(folder, 'err')
        process = start(
            *args, env=env, cwd=cwd, stdout=out, stderr=None if join else err
        )
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise TimeoutExpired([str(a) for a in args], timeout, out.read_bytes())
        texts = [
            path.read_text(errors='replace') if path.exists() else ''
            for path in (out, err)
        ]
        return CompletedProcess(args, process.exitcode, *texts)


def _ensure_server() -> None:
    multiprocessing.get_context('forkserver').set_forkserver_preload(['tests.preload'])
    paths = [str(WITHOUT_TRANSFORMERS), str(ROOT), os.environ.get('PYTHONPATH', '')]
    path = os.pathsep.join(filter(None, paths))
    with mock.patch.dict(os.environ, PYTHONPATH=path):
        forkserver.ensure_running()


def _main(
    args: list[str], environment: dict[str, str], cwd: str, stdout: str, stderr: str
) -> None:
    out = os.open(stdout, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    err = out if stderr == stdout else os.open(stderr, os.O_WRONLY | os.O_CREAT, 0o600)
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    if 'tests.preload' not in sys.modules:  # the server keeps its error to itself
        raise ImportError('tests.preload cannot be imported: try it by itself')
    first, rest = args[0], args[1:]
    own = str(Path(first).resolve().parent) if first not in ('-c', '-m') else cwd
    sys.path[:] = [
        own,
        str(WITHOUT_TRANSFORMERS),
        *filter(None, environment.get('PYTHONPATH', '').split(os.pathsep)),
        *sys.path,
    ]
    if first == '-m':
        sys.argv = rest
        runpy.run_module(rest[0], run_name='__main__', alter_sys=True)
    elif first == '-c':
        sys.argv = ['-c', *rest[1:]]
        exec(compile(rest[0], '<string>', 'exec'), {'__name__': '__main__'})
    else:
        sys.argv = args
        runpy.run_path(first, run_name='__main__')
