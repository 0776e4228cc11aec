"""Samples per second of a config's training data loader.

    python tools/benchmark/loader.py CONFIG --workers 0 2 --samples 400 \
        --out benchmarks/loader_NAME.json

Each round builds the loader anew, waits for the first batch (reported apart: it holds
the start of the workers), then times the following samples. Rounds alternate between
the numbers of workers.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Any

from mmengine.config import Config, DictAction
from mmengine.runner import Runner
from rich.progress import Progress
from xbench import common, measure, model, render


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config')
    parser.add_argument('--workers', type=int, nargs='+', default=[0, 2])
    parser.add_argument('--samples', type=int, default=400, help='timed per round')
    parser.add_argument('--repeats', type=int, default=3, help='rounds')
    parser.add_argument('--threads', type=int, default=1, help='per process')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={})
    parser.add_argument('--out', help='JSON file, for example benchmarks/NAME.json')
    args = parser.parse_args(argv)
    if min(args.samples, args.repeats) < 1 or min(args.workers) < 0:
        parser.error('--samples and --repeats must be at least 1, --workers 0')
    return args


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    args = parse_args(argv)
    common.set_threads(args.threads)
    try:
        result = run(args)
    except (ValueError, FileNotFoundError) as error:
        common.fail(str(error))
    result['command'] = common.command_line('loader.py', argv)
    print(render.loader([result]))
    if args.out:
        common.write_json(args.out, result)
        print(f'written to {args.out}')


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Time every number of workers, the rounds in turn."""
    cfg = model.load_config(args.config, args.cfg_options)
    if cfg.get('train_dataloader') is None:
        raise ValueError(f'{args.config} has no `train_dataloader`. Add one.')
    rates: dict[int, list[float]] = {workers: [] for workers in args.workers}
    firsts: dict[int, list[float]] = {workers: [] for workers in args.workers}
    rounds = args.repeats * len(rates)
    with common.progress(f'loading {rounds} x {args.samples} samples') as progress:
        task = progress.add_task('loading', total=rounds * args.samples)
        for _ in range(args.repeats):
            for workers in rates:
                first, rate = time_round(cfg, workers, args, progress, task)
                firsts[workers].append(first)
                rates[workers].append(rate)
    return {
        'kind': 'loader',
        'config': common.public_path(args.config),
        'environment': common.environment(),
        'settings': {
            'batch': cfg.train_dataloader.batch_size,
            'samples': args.samples,
            'repeats': args.repeats,
            'threads': args.threads,
            'seed': args.seed,
        },
        'results': [
            {
                'workers': workers,
                'samples_per_second': measure.spread(rates[workers]),
                'first_batch_seconds': measure.spread(firsts[workers]),
            }
            for workers in rates
        ],
    }


def time_round(
    cfg: Config, workers: int, args: argparse.Namespace, progress: Progress, task: Any
) -> tuple[float, float]:
    """Return the seconds to the first batch, and samples per second after it."""
    loader_cfg = cfg.train_dataloader.copy()
    loader_cfg.num_workers = workers
    if workers == 0:  # torch refuses both without workers
        loader_cfg.persistent_workers = False
        loader_cfg.pop('prefetch_factor', None)
    loader = Runner.build_dataloader(loader_cfg, seed=args.seed)
    start = time.perf_counter()
    batches = iter(loader)
    if next(batches, None) is None:
        raise ValueError(
            f'the training loader gives no batch: {len(loader.dataset)} samples, batch '
            f'size {loader_cfg.batch_size}. Use more samples, or drop_last=False.'
        )
    first = time.perf_counter() - start
    count = 0
    start = time.perf_counter()
    while count < args.samples:
        try:
            batch = next(batches)
        except StopIteration:  # the end of an epoch, with a finite sampler
            batches = iter(loader)
            continue
        count += len(batch['inputs'])
        progress.advance(task, len(batch['inputs']))
    return first, count / (time.perf_counter() - start)


if __name__ == '__main__':
    main()
