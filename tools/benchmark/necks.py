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
from xbench import common, summary, variants

_CONFIGS = common.ROOT / 'configs' / 'attention'
_NO_NECK = 'no-neck'
HEADER = ['neck', 'mIoU', 'gain', 'params', 'forward ms', 'train ms', 'MB', 'train MB']


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    variants.add_arguments(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    args = parse_args(argv)
    configs = args.configs or shipped()
    trained = variants.train(args, 'necks', configs)
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
