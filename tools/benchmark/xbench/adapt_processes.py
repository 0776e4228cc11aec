"""How much faster several processes adapt than one.

Every process trains on a batch of its own, under the wrapper that a run would have. In
each round all of them take a step together, then one takes a step alone, of the bare
model, while the others wait. Throughput is the number of processes times the time
alone over the time together. The data are those of adapt_cost.py; loading and the
teacher's average are not counted. Processes talk by gloo, on one CPU.

Each process is ``python -m xbench.adapt_processes JSON``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist
from mmengine.model import MMDistributedDataParallel

from mmseg_xmodal.engine import AdaptationDistributedDataParallel

from . import adapt_cost, common, measure, model

FORMS = ('summed', 'sequential')
_WRAPPERS = dict(
    summed=MMDistributedDataParallel, sequential=AdaptationDistributedDataParallel
)
_WARMUP = 2  # rounds
_TIMEOUT = 1800  # seconds


def measure_all(args: argparse.Namespace, paths: dict[str, str]) -> dict[str, Any]:
    """Throughput of every config that adapts.

    Args:
        args: ``processes``, ``shape``, ``threads``, ``repeats``.
        paths: Config by label; those that do not adapt are left out.

    Raises:
        ValueError: If none adapts, or there are fewer than two processes.
        RuntimeError: If a process fails; with its last lines.
    """
    if args.processes < 2:
        raise ValueError(f'--processes is {args.processes}, expected 2 or more.')
    found: dict[str, Any] = {}
    for label, cfg in adapt_cost.adapting(paths).items():
        request = dict(
            config=paths[label],
            shape=adapt_cost.image_size(args, cfg, paths[label]),
            threads=args.threads,
            repeats=args.repeats,
        )
        found[label] = {
            form: _figures(_run(request | dict(form=form), args.processes), args)
            for form in FORMS
        }
    return found


def as_table(found: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """One row per config and form."""
    rows = []
    for label, forms in found.items():
        for form, values in forms.items():
            times = values['throughput']
            row = [label, form, str(values['processes'])]
            row += [f'{1000 * values[k]["median"]:.4g}' for k in ('alone', 'together')]
            row.append(f'{times["median"]:.2f}')
            rows.append([*row, f'{times["q1"]:.2f}-{times["q3"]:.2f}'])
    header = ['config', 'step', 'processes', 'ms alone', 'ms together']
    return [*header, 'throughput', '(IQR)'], rows


def _figures(
    seconds: dict[str, list[float]], args: argparse.Namespace
) -> dict[str, Any]:
    many = [args.processes * value for value in seconds['alone']]
    return {
        'processes': args.processes,
        'alone': measure.spread(seconds['alone']),
        'together': measure.spread(seconds['together']),
        'throughput': measure.ratio(many, seconds['together']),
    }


def _run(request: dict[str, Any], count: int) -> dict[str, list[float]]:
    """Start the processes, and return what the first one wrote."""
    environment = common.child_environment(request['threads'])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        logs = [(folder / f'{rank}.log').open('w+') for rank in range(count)]
        processes = []
        for rank, log in enumerate(logs):
            own = request | dict(rank=rank, count=count, folder=name)
            command = [sys.executable, '-m', __name__, json.dumps(own)]
            processes.append(
                subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            )
        try:
            codes = [process.wait(_TIMEOUT) for process in processes]
        finally:
            for process, log in zip(processes, logs, strict=True):
                process.kill()
                log.close()
        if any(codes):
            rank = next(i for i, code in enumerate(codes) if code)
            tail = (folder / f'{rank}.log').read_text().splitlines()[-15:]
            raise RuntimeError(
                f'Process {rank} of {count} ({request["form"]} of '
                f'{request["config"]}) ended with status {codes[rank]}:\n'
                + '\n'.join(tail)
            )
        return json.loads((folder / 'seconds.json').read_text())


def _measure_here(request: dict[str, Any]) -> None:
    common.set_threads(request['threads'])
    rank, folder = request['rank'], Path(request['folder'])
    dist.init_process_group(
        'gloo',
        init_method=f'file://{folder / "store"}',
        rank=rank,
        world_size=request['count'],
    )
    cfg = model.load_config(request['config'])
    made = (cfg, request['form'], request['shape'], 'cpu')
    alone, shared = (adapt_cost.make_training(*made) for _ in range(2))
    shared.network = _WRAPPERS[request['form']](
        module=shared.network, broadcast_buffers=False
    )
    seconds: dict[str, list[float]] = {'together': [], 'alone': []}
    for i in range(-_WARMUP, request['repeats']):
        for name, training in (('together', shared), ('alone', alone)):
            dist.barrier()
            start = time.perf_counter()
            if name == 'together' or rank == 0:
                training.step()
            # A step is over when all are done with it.
            dist.barrier()
            if i >= 0:
                seconds[name].append(time.perf_counter() - start)
    if rank == 0:
        (folder / 'seconds.json').write_text(json.dumps(seconds))
    dist.destroy_process_group()


def main(argv: Sequence[str]) -> None:
    """Measure as one of the processes."""
    _measure_here(json.loads(argv[1]))


if __name__ == '__main__':
    main(sys.argv)
