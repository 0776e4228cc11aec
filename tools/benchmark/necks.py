"""What each attention neck gains and costs, against no neck, at equal budgets.

    python tools/benchmark/necks.py --seeds 0 1 2 --data-root data/vizdoom160 \
        --out benchmarks/necks.json

Accuracy is that of experiment.py, speed and memory are those of speed.py; see both for
what is measured. Without --configs: all of configs/attention, no neck first. Started
again, finished trainings are taken as they are.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from typing import Any

import experiment
import speed
from xbench import common, summary

_CONFIGS = common.ROOT / 'configs' / 'attention'
_NO_NECK = 'no-neck'
HEADER = ['neck', 'mIoU', 'gain', 'params', 'forward ms', 'train ms', 'MB', 'train MB']


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        '--configs', nargs='+', help='[LABEL=]CONFIG.py, what is compared with first'
    )
    parser.add_argument('--seeds', type=int, nargs='+', default=[0])
    parser.add_argument('--iters', type=int, help='default: that of the configs')
    parser.add_argument('--data-root', help='replaces every data_root of the configs')
    parser.add_argument('--workers', type=int, help='data loader workers of each run')
    parser.add_argument('--threads', type=int, default=1, help='per process')
    parser.add_argument('--jobs', type=int, choices=[1, 2], default=2)
    parser.add_argument('--work-dir', default='work_dirs/experiments')
    parser.add_argument('--shape', type=int, nargs=2, default=[480, 640])
    parser.add_argument('--repeats', type=int, default=10)
    parser.add_argument('--device', default='cpu', help='of the speed: cpu, cuda')
    parser.add_argument('--out', help='JSON file, for example benchmarks/necks.json')
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    args = parse_args(argv)
    configs = args.configs or shipped()
    trained = train(args, configs)
    measured = {}
    for entry in configs:
        label, path = experiment.split_label(entry)
        measured[label] = measure(args, path)
    result = collect(trained, measured, common.command_line('necks.py', argv))
    print(common.table(result['header'], result['rows']))
    if args.out:
        common.write_json(args.out, result)
        print(f'written to {args.out}')


def shipped() -> list[str]:
    """All configs of configs/attention by the name of the neck, no neck first."""
    paths = sorted(_CONFIGS.glob('*.py'), key=lambda p: (_NO_NECK not in p.stem, p))
    return [f'{path.stem.split("_")[0]}={path}' for path in paths]


def train(args: argparse.Namespace, configs: Sequence[str]) -> dict[str, Any]:
    """Train and test every config with every seed, by experiment.py."""
    options = ['--name', 'necks', '--configs', *configs]
    options += ['--seeds', *map(str, args.seeds), '--threads', str(args.threads)]
    options += ['--jobs', str(args.jobs), '--work-dir', args.work_dir]
    for name in ('iters', 'data_root', 'workers'):
        value = getattr(args, name)
        if value is not None:
            options += [f'--{name.replace("_", "-")}', str(value)]
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


def measure(args: argparse.Namespace, config: str) -> dict[str, Any]:
    """Parameters, time and memory of one config, by speed.py."""
    common.set_threads(args.threads)
    options = [config, '--shape', *map(str, args.shape), '--device', args.device]
    options += ['--threads', str(args.threads), '--repeats', str(args.repeats)]
    try:
        return speed.run(speed.parse_args(options))
    except (ValueError, TypeError, FileNotFoundError) as error:
        common.fail(str(error))


def collect(
    trained: dict[str, Any], measured: dict[str, dict[str, Any]], command: str
) -> dict[str, Any]:
    """Put both into one table; the first config is what the gain is against."""
    scores = summary.over_seeds(trained['runs'])
    first = scores[next(iter(measured))]['mIoU']['mean']
    rows = []
    for label, found in measured.items():
        form, score = found['forms']['ours'], scores[label]['mIoU']
        spread = f' ± {score["std"]:.2f}' if 'std' in score else ''
        row = [label, f'{score["mean"]:.2f}{spread}', f'{score["mean"] - first:+.2f}']
        row.append(f'{form["parameters"] / 1e6:.2f} M')
        for mode in ('forward', 'train'):
            row.append(f'{form[mode]["seconds"]["median"] * 1000:.4g}')
        for mode in ('forward', 'train'):
            peak = form[mode]['peak_mib']
            # Megabytes of 10**6 bytes.
            row.append('' if peak is None else f'{peak * 2**20 / 1e6:.0f}')
        rows.append(row)
    return {
        'kind': 'table',
        'header': HEADER,
        'rows': rows,
        'command': command,
        'environment': next(iter(measured.values()))['environment'],
        'settings': trained['settings'],
        'runs': trained['runs'],
        'speed': {
            label: {key: found[key] for key in ('config', 'settings', 'forms')}
            for label, found in measured.items()
        },
    }


if __name__ == '__main__':
    # A terminated script must end its trainings too, as an interrupted one does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    main()
