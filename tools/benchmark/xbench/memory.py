"""Peak memory of one step, each measurement from the same clean start.

On a CPU a fresh process builds the model, runs the step once on a small input (so that
lazily loaded kernels do not count), hands free memory back, resets the kernel's peak
counter and measures how far the resident set grows during the step. On CUDA it is the
growth of the allocator's peak. Both hold activations, gradients and work space, not
the weights. Run as ``python -m xbench.memory JSON``.
"""

from __future__ import annotations

import ctypes
import gc
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from . import common, measure, model

_SMALL = 64  # pixels; every stage of a stride-32 backbone still has a 2 x 2 map
_MARK = 'peak-mib:'


def cuda_peak(step: Callable[[], Any], device: str) -> float:
    """Return the growth of allocated CUDA memory during a step in MiB."""
    gc.collect()
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    step()
    torch.cuda.synchronize(device)
    return (torch.cuda.max_memory_allocated(device) - before) / 2**20


def cpu_peak(request: dict[str, Any]) -> float:
    """Return the growth of resident memory during a step in MiB, in a fresh process.

    Args:
        request: ``config``, ``options``, ``shape``, ``batch``, ``seed``, ``threads``,
            ``against``, ``form``, ``mode`` (``'forward'`` or ``'train'``),
            ``precision``.

    Raises:
        RuntimeError: If the process fails; with its last lines.
    """
    what = f'{request["form"]}/{request["mode"]}'
    return in_fresh_process(__name__, request, what)


def in_fresh_process(module: str, request: dict[str, Any], what: str) -> float:
    """Run ``python -m module JSON``, which calls :func:`report`, and return the number.

    Args:
        module: Such as ``'xbench.memory'``.
        request: What the module gets; ``threads`` limits it.
        what: Is measured, for errors.

    Raises:
        RuntimeError: If the process fails; with its last lines.
    """
    environment = common.child_environment(request['threads'])
    done = subprocess.run(
        [sys.executable, '-m', module, json.dumps(request)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    for line in done.stdout.splitlines():
        if line.startswith(_MARK):
            return float(line.removeprefix(_MARK))
    tail = '\n'.join(done.stderr.splitlines()[-15:])
    raise RuntimeError(
        f'The memory measurement of {what} ended with status {done.returncode}:\n'
        f'{tail}\nUse --no-memory to go without.'
    )


def report(mib: float) -> None:
    """Hand the number to the process that asked for it."""
    print(f'{_MARK}{mib}')


def _measure_here(request: dict[str, Any]) -> float:
    common.set_threads(request['threads'])
    cfg = model.load_config(request['config'], request['options'])
    network: Any = model.build_model(cfg, request['seed'], 'cpu')
    if request['form'] == 'ours':
        form = model.our_form(network)
    else:
        kind = cfg.model.backbone.type
        form = model.published_form(network, kind, request['against'], 'cpu')

    def step_at(size: tuple[int, int]) -> Callable[[], Any]:
        classes = network.decode_head.num_classes
        x, samples = model.make_batch(
            cfg, classes, size, request['batch'], request['seed'], 'cpu'
        )
        return measure.make_step(
            form, request['mode'], x, samples, request['precision']
        )

    step_at((_SMALL, _SMALL))()
    form.module.zero_grad(set_to_none=True)
    return growth(step_at(tuple(request['shape'])))


def growth(step: Callable[[], Any]) -> float:
    """Return how far the resident memory of this process grows in a step, in MiB."""
    before = _reset_peak()
    step()
    return (_status('VmHWM') - before) / 1024


def _reset_peak() -> int:
    """Hand free memory back and reset the peak; return the resident KiB."""
    gc.collect()
    try:
        ctypes.CDLL('libc.so.6').malloc_trim(0)
        Path('/proc/self/clear_refs').write_text('5')
        return _status('VmRSS')
    except (OSError, AttributeError) as error:
        raise RuntimeError(
            'Peak memory on a CPU is read from Linux (/proc/self/clear_refs, '
            f'malloc_trim of glibc), which is not to be had here: {error}. Use '
            '--no-memory.'
        ) from error


def _status(field: str) -> int:
    text = Path('/proc/self/status').read_text()
    match = re.search(rf'^{field}:\s+(\d+) kB', text, re.MULTILINE)
    if match is None:
        raise OSError(f'/proc/self/status has no {field}')
    return int(match.group(1))


if __name__ == '__main__':
    report(_measure_here(json.loads(sys.argv[1])))
