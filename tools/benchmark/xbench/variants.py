"""Train and test the variants of a comparison, for scripts that put more beside it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import experiment

from . import common

_PASSED_ON = ('iters', 'data_root', 'workers')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that all such scripts share."""
    parser.add_argument(
        '--configs', nargs='+', help='[LABEL=]CONFIG.py, instead of the shipped ones'
    )
    parser.add_argument('--seeds', type=int, nargs='+', default=[0])
    parser.add_argument('--iters', type=int, help='default: that of the configs')
    parser.add_argument('--data-root', help='replaces every data_root of the configs')
    parser.add_argument('--workers', type=int, help='data loader workers of each run')
    parser.add_argument('--threads', type=int, default=1, help='per process')
    parser.add_argument('--jobs', type=int, default=2, help='runs at a time')
    parser.add_argument('--work-dir', default='work_dirs/experiments')
    parser.add_argument('--shape', type=int, nargs=2, default=[480, 640])
    parser.add_argument('--repeats', type=int, default=10)
    parser.add_argument('--device', default='cpu', help='of the speed: cpu, cuda')
    parser.add_argument('--out', help='JSON file, for example benchmarks/NAME.json')


def train(args: argparse.Namespace, name: str, configs: Sequence[str]) -> dict:
    """Train and test every config with every seed, by experiment.py.

    Args:
        args: Of a parser with :func:`add_arguments`.
        name: Name of the experiment.
        configs: ``[LABEL=]CONFIG.py``.

    Returns:
        What experiment.py writes; its key ``runs`` has the metrics by label and seed.
    """
    options = ['--name', name, '--configs', *configs]
    options += ['--seeds', *map(str, args.seeds), '--threads', str(args.threads)]
    options += ['--jobs', str(args.jobs), '--work-dir', args.work_dir]
    for key in _PASSED_ON:
        value: Any = getattr(args, key)
        if value is not None:
            options += [f'--{key.replace("_", "-")}', str(value)]
    settings = experiment.parse_args(options)
    try:
        planned = experiment.plan(settings)
        experiment.check_equal_budgets(planned)
        results = experiment.run_all(planned, settings.jobs, settings.threads)
    except (ValueError, FileNotFoundError, RuntimeError) as error:
        common.fail(str(error))
    except KeyboardInterrupt:
        common.fail('interrupted; the same command goes on from here')
    return experiment.collect(settings, options, planned, results)
