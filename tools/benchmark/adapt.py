"""What adaptation brings on the target, between source-only and oracle, equal budgets.

    python tools/benchmark/adapt.py configs/adaptation/dacs_A.py --seeds 0 1 2 \
        --data-root data/camvid_day2dusk --out benchmarks/adapt_camvid.json

Accuracy is that of experiment.py: every config trains for the same number of iterations
with the same number of images, and is tested once, with the last weights. The share of
the gap closed is (adapted - source-only) / (oracle - source-only), of the means over
seeds; the range in brackets is that of the seeds. Both ends are configs of the labels
``source-only`` and ``oracle``; left out, they are looked for beside the first config:
``dacs_A.py``, ``source-only_A.py``, ``oracle_A.py``. Without configs: all on CamVid.

With ``--costs`` nothing is trained: the table is that of a training step of each
adapted config against a supervised one of its student, see xbench/adapt_cost.py; with
``--processes N`` that of the throughput of N processes, see xbench/adapt_processes.py.
Started again, finished trainings are taken as they are.
"""

from __future__ import annotations

import argparse
import signal
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import experiment
from xbench import adapt_cost, adapt_processes, common, summary, variants

_CONFIGS = common.ROOT / 'configs' / 'adaptation'
SOURCE, ORACLE = 'source-only', 'oracle'
# In the order of the table; what is not named here comes between.
_FIRST = (SOURCE, 'source-jitter')


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('adapted', nargs='*', help='[LABEL=]CONFIG.py, as --configs')
    variants.add_arguments(parser)
    parser.add_argument('--metric', default='mIoU', help='such as target/mIoU')
    parser.add_argument(
        '--costs', action='store_true', help='of training steps, instead of accuracy'
    )
    parser.add_argument(
        '--processes', type=int, help='throughput of so many, instead of accuracy'
    )
    parser.add_argument('--no-memory', action='store_true', help='of the costs')
    # None: the size of the crops in training.
    parser.set_defaults(shape=None)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    args = parse_args(argv)
    entries = [*args.adapted, *(args.configs or [])] or shipped()
    command = common.command_line('adapt.py', argv)
    try:
        if args.costs or args.processes is not None:
            result = steps(args, entries)
        else:
            result = accuracy(args, entries)
    except (ValueError, FileNotFoundError, RuntimeError) as error:
        common.fail(str(error))
    result = {**result, 'kind': 'table', 'command': command}
    print(common.table(result['header'], result['rows']))
    if args.out:
        common.write_json(args.out, result)
        print(f'written to {args.out}')


def accuracy(args: argparse.Namespace, entries: Sequence[str]) -> dict[str, Any]:
    """Train and test all configs, and compare them."""
    configs = complete(entries)
    trained = variants.train(args, experiment_name(configs), configs)
    return collect(trained, args.metric)


def steps(args: argparse.Namespace, entries: Sequence[str]) -> dict[str, Any]:
    """Measure the training steps of those configs that adapt."""
    part = adapt_cost if args.processes is None else adapt_processes
    paths = {label_of(entry): entry.rpartition('=')[2] for entry in entries}
    found = part.measure_all(args, paths)
    header, rows = part.as_table(found)
    settings = dict(threads=args.threads, repeats=args.repeats, device=args.device)
    return {
        'header': header,
        'rows': rows,
        'environment': common.environment(args.device),
        'settings': settings,
        'configs': {label: common.public_path(paths[label]) for label in found},
        'costs' if args.processes is None else 'throughput': found,
    }


def shipped() -> list[str]:
    """All CamVid configs of configs/adaptation, in the order of the table."""

    def rank(path: Path) -> tuple[int, str]:
        name = label_of(str(path))
        if name in _FIRST:
            return _FIRST.index(name), ''
        return len(_FIRST) + (name == ORACLE), path.name

    return [str(p) for p in sorted(_CONFIGS.glob('*_camvid-day2dusk-*.py'), key=rank)]


def label_of(entry: str) -> str:
    """The label before ``=``, or else the method in the file's name."""
    label, separator, _ = entry.partition('=')
    return label if separator else Path(entry).stem.partition('_')[0]


def complete(entries: Sequence[str]) -> list[str]:
    """Label all configs, and add the two ends where they are left out.

    Args:
        entries: ``[LABEL=]CONFIG.py``.

    Raises:
        FileNotFoundError: If an end is not beside the first config.
    """
    labelled = [f'{label_of(e)}={e.rpartition("=")[2]}' for e in entries]
    labels = [label_of(entry) for entry in labelled]
    first = Path(labelled[0].rpartition('=')[2])
    for end in (SOURCE, ORACLE):
        if end in labels:
            continue
        path = first.with_name(f'{end}_{first.name.partition("_")[2]}')
        if not path.is_file():
            raise FileNotFoundError(
                f'There is no config of the label {end!r}, nor {path}. Name one, as '
                f'in {end}=CONFIG.py.'
            )
        entry = f'{end}={path}'
        labelled = [entry, *labelled] if end == SOURCE else [*labelled, entry]
    return labelled


def experiment_name(configs: Sequence[str]) -> str:
    """Folder of the runs: one for each family of configs."""
    paths = dict(experiment.split_label(entry) for entry in configs)
    return f'adapt_{Path(paths[SOURCE]).stem.partition("_")[2]}'


def collect(trained: Mapping[str, Any], metric: str) -> dict[str, Any]:
    """One row per config: metric, share of the gap closed, IoU of each class.

    Raises:
        ValueError: If the runs do not have the metric.
    """
    runs = trained['runs']
    found = sorted({name for run in runs for name in run['metrics']})
    if any(metric not in run['metrics'] for run in runs):
        raise ValueError(
            f'--metric {metric} is not in the results of every config; there are '
            f'{found}. Name one of these.'
        )
    scores = summary.over_seeds(runs)
    # target/mIoU has target/IoU.<class> beside it.
    start = metric.rpartition('/')[0] + '/' * ('/' in metric) + summary.PER_CLASS
    classes = [name for name in runs[0]['metrics'] if name.startswith(start)]
    gaps = {label: gap_closed(runs, label, metric) for label in scores}
    rows = []
    for label, score in scores.items():
        values = score[metric]
        spread = f' ± {values["std"]:.2f}' if 'std' in values else ''
        row = [label, f'{values["mean"]:.2f}{spread}', gap_text(gaps[label], label)]
        row += [f'{score[n]["mean"]:.1f}' if n in score else '' for n in classes]
        rows.append(row)
    names = [name.removeprefix(start) for name in classes]
    return {
        'header': ['config', metric, 'gap closed', *names],
        'rows': rows,
        'environment': trained['environment'],
        'settings': {
            **trained['settings'],
            'gap_closed': '(adapted - source-only) / (oracle - source-only) of means',
        },
        'gap_closed': gaps,
        'runs': runs,
    }


def gap_closed(
    runs: Sequence[Mapping[str, Any]], label: str, metric: str
) -> dict[str, Any]:
    """Share of the gap between both ends that a config closes.

    Args:
        runs: Of all configs and seeds.
        label: Of the config.
        metric: What counts.

    Returns:
        ``mean``, of the means over seeds, and ``seeds``, one by one; None where the
        oracle is not above the source.
    """
    values = {(r['label'], r['seed']): r['metrics'][metric] for r in runs}
    seeds = sorted({seed for _, seed in values})

    def share(own: float, low: float, high: float) -> float | None:
        return (own - low) / (high - low) if high > low else None

    columns = [[values[name, s] for s in seeds] for name in (label, SOURCE, ORACLE)]
    return {
        'mean': share(*(statistics.fmean(column) for column in columns)),
        'seeds': [share(*triple) for triple in zip(*columns, strict=True)],
    }


def gap_text(gap: Mapping[str, Any], label: str) -> str:
    """A share in percent, with the range over seeds."""
    if label in (SOURCE, ORACLE):
        return f'{100 * (label == ORACLE)}%'
    if gap['mean'] is None:
        return 'no gap'
    text = f'{100 * gap["mean"]:.0f}%'
    shares = [100 * share for share in gap['seeds'] if share is not None]
    if len(shares) > 1:
        text += f' ({min(shares):.0f} to {max(shares):.0f})'
    return text


if __name__ == '__main__':
    # A terminated script must end its trainings too, as an interrupted one does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    main()
