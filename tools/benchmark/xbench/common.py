"""Environment stamp, command line, JSON and tables of every benchmark script."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from rich.progress import Progress

ROOT = Path(__file__).resolve().parents[3]
TOOLS = Path(__file__).resolve().parents[1]

_DISTRIBUTIONS = (
    'torch',
    'triton',
    'numpy',
    'opencv-python',
    'onedl-mmengine',
    'onedl-mmcv',
    'onedl-mmsegmentation',
    'mmengine',
    'mmcv',
    'mmsegmentation',
    'mmseg_xmodal',
)
_THREAD_VARIABLES = ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS')


def child_environment(threads: int) -> dict[str, str]:
    """Environment of a child process with ``threads`` that imports these scripts."""
    environment = {**os.environ, **dict.fromkeys(_THREAD_VARIABLES, str(threads))}
    paths = [str(TOOLS), str(ROOT), environment.get('PYTHONPATH', '')]
    environment['PYTHONPATH'] = os.pathsep.join(p for p in paths if p)
    return environment


def set_threads(threads: int) -> None:
    """Limit torch and OpenCV in this process to ``threads`` threads.

    Raises:
        ValueError: If ``threads`` is below 1.
    """
    if threads < 1:
        raise ValueError(f'--threads got {threads}, expected at least 1.')
    import cv2
    import torch

    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(threads)))
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)


def environment(device: str = 'cpu') -> dict[str, Any]:
    """Describe the machine and the versions, without dates, names or paths."""
    import torch

    stamp: dict[str, Any] = {
        'python': platform.python_version(),
        'system': f'{platform.system()} {platform.machine()}',
        'cpu': _cpu_name(),
        'cores': os.cpu_count(),
        'versions': _versions(),
    }
    if device.startswith('cuda'):
        properties = torch.cuda.get_device_properties(torch.device(device))
        stamp['gpu'] = properties.name
        stamp['gpu_memory_mib'] = properties.total_memory // 2**20
        stamp['cuda'] = torch.version.cuda
        stamp['cudnn'] = torch.backends.cudnn.version()
    return stamp


def _cpu_name() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor() or 'unknown'
    names = [line.split(':', 1)[1].strip() for line in lines if 'model name' in line]
    return names[0] if names else platform.machine()


def _versions() -> dict[str, str]:
    versions = {}
    for name in _DISTRIBUTIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # the other stack's distributions are absent by design
    return versions


def public_path(path: str | Path) -> str:
    """Return a path that says nothing about this machine.

    Below the repository it is relative to it; another absolute path keeps its last
    part only.
    """
    path = Path(path)
    if not path.is_absolute():
        return path.as_posix()
    if path.is_relative_to(ROOT):
        return path.relative_to(ROOT).as_posix()
    return f'.../{path.name}'


def command_line(script: str, arguments: Sequence[str]) -> str:
    """Return the command that repeats this result, from the repository root."""
    shown = []
    for argument in arguments:
        key, separator, value = argument.rpartition('=')
        shown.append(key + separator + public_path(value) if value else argument)
    return shlex.join(['python', f'tools/benchmark/{script}', *shown])


def write_json(path: str | Path, result: dict[str, Any]) -> None:
    """Write a result whole or not at all; floats keep six significant digits."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_plain(result), indent=1, ensure_ascii=False, allow_nan=False)
    partial = path.with_name(path.name + '.partial')
    partial.write_text(text + '\n', encoding='utf-8')
    os.replace(partial, path)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        # JSON has no nan: a class without a pixel, for example, is null.
        return float(f'{value:.6g}') if math.isfinite(value) else None
    return value


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a result.

    Raises:
        FileNotFoundError: If the file is absent.
        ValueError: If it is no JSON object.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f'{public_path(path)} does not exist. Run the benchmark that writes it, '
            'or correct the name.'
        )
    try:
        result = json.loads(path.read_text(encoding='utf-8'))
    except json.JSONDecodeError as error:
        raise ValueError(f'{public_path(path)} is no valid JSON: {error}.') from error
    if not isinstance(result, dict):
        raise ValueError(
            f'{public_path(path)} holds a {type(result).__name__}, expected an object. '
            'Write it again with its benchmark script.'
        )
    return result


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a padded Markdown table; the first column is left-aligned."""
    cells = [list(header), *[[str(c) for c in row] for row in rows]]
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        padded = [
            c.ljust(w) if i == 0 else c.rjust(w)
            for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ]
        return '| ' + ' | '.join(padded) + ' |'

    rule = ['-' * w if i == 0 else '-' * (w - 1) + ':' for i, w in enumerate(widths)]
    return '\n'.join([line(cells[0]), line(rule), *(line(row) for row in cells[1:])])


def progress(stage: str) -> Progress:
    """Return a progress display on stderr; without a terminal, say the stage only."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if not console.is_terminal:
        print(f'{stage} ...', file=sys.stderr, flush=True)
    return Progress(console=console, transient=True, disable=not console.is_terminal)


def fail(message: str) -> NoReturn:
    """End the script with exit status 1 and a message on stderr."""
    print(f'error: {message}', file=sys.stderr)
    raise SystemExit(1)
