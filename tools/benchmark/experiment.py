"""Train and test configs over seeds with mmseg's own tools, at equal budgets.

    python tools/benchmark/experiment.py --name vizdoom_rgbd \
        --configs rgbd=A.py rgb=B.py depth=C.py --seeds 0 1 2 --iters 4000 \
        --threads 1 --jobs 2 --out benchmarks/vizdoom_rgbd.json

Every run trains from its config to the same number of iterations and is tested once,
at the end, with the last checkpoint: nothing is chosen on the test set. Results are
read from the JSON that ``test.py`` writes. Started again, finished runs are taken as
they are and interrupted ones resume. The spread is the standard deviation over seeds
(n - 1).
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import torch
from mmengine.config import DictAction
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from xbench import common, render, runs

_SECONDS_BETWEEN_LINES = 60  # of progress, where there is no terminal


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--name', required=True, help='name of the experiment')
    parser.add_argument('--configs', nargs='+', required=True, help='[LABEL=]CONFIG.py')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0])
    parser.add_argument('--iters', type=int, help='default: that of the configs')
    parser.add_argument('--data-root', help='replaces every data_root of the configs')
    parser.add_argument('--workers', type=int, help='data loader workers of each run')
    parser.add_argument('--threads', type=int, default=1, help='per process')
    parser.add_argument('--jobs', type=int, default=2, help='runs at a time')
    parser.add_argument('--work-dir', default='work_dirs/experiments')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={})
    parser.add_argument('--out', help='JSON file, for example benchmarks/NAME.json')
    args = parser.parse_args(argv)
    numbers = (args.threads, args.jobs, 1 if args.iters is None else args.iters)
    if min(numbers) < 1:
        parser.error('--threads, --jobs and --iters must be at least 1')
    return args


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    args = parse_args(argv)
    try:
        planned = plan(args)
        check_equal_budgets(planned)
        results = run_all(planned, args.jobs, args.threads)
    except (ValueError, FileNotFoundError, RuntimeError) as error:
        common.fail(str(error))
    except KeyboardInterrupt:
        common.fail('interrupted; the same command goes on from here')
    result = collect(args, argv, planned, results)
    print(render.experiment([result]))
    if args.out:
        common.write_json(args.out, result)
        print(f'written to {args.out}')


def plan(args: argparse.Namespace) -> list[runs.Run]:
    """List the runs, seeds outermost: the first full row of results comes early.

    Raises:
        ValueError: If two configs would share a label.
    """
    named = [split_label(entry) for entry in args.configs]
    counts = Counter(label for label, _ in named)
    twice = [label for label, count in counts.items() if count > 1]
    if twice or len(set(args.seeds)) < len(args.seeds):
        raise ValueError(
            f'labels {twice} or seeds {args.seeds} occur twice. Give each config a '
            'label of its own, as in --configs rgb=A.py depth=B.py.'
        )
    planned = []
    for seed in args.seeds:
        for label, path in named:
            config = runs.resolve(
                path, seed, args.iters, args.data_root, args.workers, args.cfg_options
            )
            folder = Path(args.work_dir) / args.name / label / f'seed_{seed}'
            iters = config.train_cfg.max_iters
            planned.append(runs.Run(label, config, seed, iters, folder))
    return planned


def split_label(entry: str) -> tuple[str, str]:
    """Split ``LABEL=PATH``; a path alone is labelled by its file name."""
    label, separator, path = entry.partition('=')
    return (label, path) if separator else (Path(entry).stem, entry)


def check_equal_budgets(planned: list[runs.Run]) -> None:
    """Refuse variants that see unequal numbers of samples.

    Raises:
        ValueError: If iterations or batch sizes differ.
    """
    budgets = {
        run.label: (run.iters, run.config.train_dataloader.batch_size)
        for run in planned
    }
    if len(set(budgets.values())) > 1:
        listed = ', '.join(
            f'{label}: {iters} x {batch}' for label, (iters, batch) in budgets.items()
        )
        raise ValueError(
            f'budgets differ (iterations x batch size): {listed}. Give --iters, or '
            '--cfg-options train_dataloader.batch_size=N.'
        )


def run_all(
    planned: list[runs.Run], jobs: int, threads: int
) -> dict[tuple[str, int], dict[str, float]]:
    """Execute the runs, at most ``jobs`` at a time; show how far each one is."""
    executor = runs.Executor(threads)
    results: dict[tuple[str, int], dict[str, float]] = {}
    columns = [TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn()]
    with ThreadPoolExecutor(jobs) as pool, Progress(*columns) as progress:
        bars = {
            run.folder: progress.add_task(run.title, total=run.iters) for run in planned
        }

        def work(run: runs.Run) -> None:
            results[run.label, run.seed] = executor.execute(run)
            progress.update(bars[run.folder], completed=run.iters)
            miou = results[run.label, run.seed].get('mIoU')
            progress.console.print(f'{run.title}: mIoU {miou}')

        futures = [pool.submit(work, run) for run in planned]
        next_line = time.monotonic() + _SECONDS_BETWEEN_LINES
        try:
            while not _finished(futures):
                for run in planned:
                    progress.update(bars[run.folder], completed=run.iteration())
                if not progress.console.is_terminal and time.monotonic() > next_line:
                    print(_state(progress), flush=True)
                    next_line = time.monotonic() + _SECONDS_BETWEEN_LINES
                time.sleep(0.5)
        finally:
            # On an error or an interrupt nothing must run on unseen.
            executor.stop()
            for future in futures:
                future.cancel()
    errors = [f.exception() for f in futures if not f.cancelled()]
    for error in errors:
        if error is not None and not isinstance(error, runs.Stopped):
            raise error
    return results


def _state(progress: Progress) -> str:
    """Say in one line how far the runs under way are, for logs."""
    return ', '.join(
        f'{task.description}: {task.completed:.0f}/{task.total:.0f}'
        for task in progress.tasks
        if task.completed > 0 and not task.finished
    )


def _finished(futures: list[Future]) -> bool:
    done, pending = wait(futures, timeout=0, return_when=FIRST_EXCEPTION)
    return not pending or any(future.exception() for future in done)


def collect(
    args: argparse.Namespace,
    argv: Sequence[str],
    planned: list[runs.Run],
    results: dict[tuple[str, int], dict[str, float]],
) -> dict[str, Any]:
    paths = dict(split_label(entry) for entry in args.configs)
    return {
        'kind': 'experiment',
        'name': args.name,
        'command': common.command_line('experiment.py', argv),
        # mmengine trains on a GPU wherever there is one.
        'environment': common.environment(
            'cuda' if torch.cuda.is_available() else 'cpu'
        ),
        'settings': {
            'iters': planned[0].iters,
            'batch': planned[0].config.train_dataloader.batch_size,
            'seeds': args.seeds,
            'threads': args.threads,
            'jobs': args.jobs,
            'spread': 'standard deviation over seeds (n - 1)',
        },
        'runs': [
            {
                'label': run.label,
                'config': common.public_path(paths[run.label]),
                'seed': run.seed,
                'device': run.device(),
                'metrics': results[run.label, run.seed],
            }
            for run in planned
        ],
    }


if __name__ == '__main__':
    # A terminated script must end its trainings too, as an interrupted one does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    main()
