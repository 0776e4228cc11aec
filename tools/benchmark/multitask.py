"""A joint multi-task model against single-task ones, and its balancers, equal budgets.

    python tools/benchmark/multitask.py --seeds 0 1 2 --data-root data/vizdoom160 \
        --out benchmarks/multitask.json

Accuracy is that of experiment.py. Delta_m is the mean relative gain over the
single-task models of the same seed, one metric per task, positive where the joint model
is better. Without --configs: all of configs/multitask on ViZDoom. Labels that start
with ``single-`` are the baselines.

With ``--costs`` nothing is trained: the table is that of inference of all heads (raw
outputs) of the joint model against the single-task ones, and of a training step under
the gradient rules against a plain one.
"""

from __future__ import annotations

import argparse
import signal
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import experiment
import torch
from xbench import common, measure, model, task_cost, variants

from mmseg_xmodal.evaluation.delta_m import delta_m

_CONFIGS = common.ROOT / 'configs' / 'multitask'
_SINGLE = 'single-'
JOINT = 'multitask'
# Metric that counts for each task, and whether more is better.
METRICS = {
    'seg': ('mIoU', True),
    'det': ('det/mAP', True),
    'depth': ('depth/rmse', False),
    'cls': ('cls/mAP', True),
}
RULE = dict(type='mmseg_xmodal.PCGrad')
WRAPPERS: dict[str, dict[str, Any]] = {
    'plain': dict(type='OptimWrapper'),
    **{
        space: dict(
            type='mmseg_xmodal.GradientRuleOptimWrapper', rule=RULE, gram_space=space
        )
        for space in ('features', 'parameters')
    },
}


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    variants.add_arguments(parser)
    parser.add_argument('--costs', action='store_true', help='instead of accuracy')
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    args = parse_args(argv)
    configs = args.configs or shipped()
    result = costs(args, configs) if args.costs else accuracy(args, configs)
    result['command'] = common.command_line('multitask.py', argv)
    print(common.table(result['header'], result['rows']))
    if args.out:
        common.write_json(args.out, result)
        print(f'written to {args.out}')


def accuracy(args: argparse.Namespace, configs: Sequence[str]) -> dict[str, Any]:
    """Train and test every config with every seed."""
    return collect(variants.train(args, 'multitask', configs))


def costs(args: argparse.Namespace, configs: Sequence[str]) -> dict[str, Any]:
    """Time the joint model; nothing is trained."""
    paths = dict(experiment.split_label(entry) for entry in configs)
    if JOINT not in paths:
        common.fail(f'--costs needs a config with the label {JOINT}, got {list(paths)}')
    common.set_threads(args.threads)
    found = cost(args, paths)
    header, rows = cost_table(found)
    return {
        'kind': 'table',
        'header': header,
        'rows': rows,
        'environment': common.environment(),
        'settings': {'threads': args.threads, 'repeats': args.repeats},
        'cost': found,
    }


def shipped() -> list[str]:
    """All ViZDoom configs of configs/multitask, single tasks first."""
    paths = sorted(
        _CONFIGS.glob('*_vizdoom-120x160.py'),
        key=lambda p: (not p.stem.startswith(_SINGLE), not p.stem.startswith(JOINT), p),
    )
    return [f'{path.stem.split("_")[0]}={path}' for path in paths]


def collect(trained: dict[str, Any]) -> dict[str, Any]:
    """One row per variant: the metric of each task, and Delta_m."""
    runs = {(run['label'], run['seed']): run['metrics'] for run in trained['runs']}
    seeds = sorted({seed for _, seed in runs})
    labels = list(dict.fromkeys(run['label'] for run in trained['runs']))
    single = {
        label.removeprefix(_SINGLE): label for label in labels if _SINGLE in label
    }
    tasks = [task for task in METRICS if task in single]
    baseline = [values(runs, single[t], seeds, METRICS[t][0]) for t in tasks]
    rows = [['single tasks', *(spread(v) for v in baseline), '']]
    gains: dict[str, list[float]] = {}
    for label in labels:
        if label in single.values():
            continue
        found = [values(runs, label, seeds, METRICS[t][0]) for t in tasks]
        gains[label] = [
            gain(tasks, [f[i] for f in found], [b[i] for b in baseline])
            for i in range(len(seeds))
        ]
        row = [label, *(spread(v) for v in found), spread(gains[label], '+')]
        rows.append(row)
    header = ['model', *(METRICS[t][0] for t in tasks), 'Delta_m %']
    return {
        'kind': 'table',
        'header': header,
        'rows': rows,
        'environment': trained['environment'],
        'settings': {
            **trained['settings'],
            'delta_m': 'one metric per task, higher is better, against the same seed',
        },
        'delta_m': gains,
        'runs': trained['runs'],
    }


def values(
    runs: Mapping[tuple[str, int], Mapping[str, float]],
    label: str,
    seeds: Sequence[int],
    metric: str,
) -> list[float]:
    """A metric of a variant, by seed."""
    return [runs[label, seed][metric] for seed in seeds]


def gain(
    tasks: Sequence[str], new: Sequence[float], baseline: Sequence[float]
) -> float:
    """Delta_m in percent."""
    names = [METRICS[task][0] for task in tasks]
    return 100 * delta_m(
        {t: {n: v} for t, n, v in zip(tasks, names, new, strict=True)},
        {t: {n: v} for t, n, v in zip(tasks, names, baseline, strict=True)},
        {t: {METRICS[t][0]: METRICS[t][1]} for t in tasks},
        grouping='one_metric_per_task',
        sign='higher_is_better',
    )


def spread(numbers: Sequence[float], sign: str = '') -> str:
    """Mean, and standard deviation over seeds (n - 1)."""
    text = f'{statistics.fmean(numbers):{sign}.2f}'
    if len(numbers) > 1:
        text += f' ± {statistics.stdev(numbers):.2f}'
    return text


def cost(args: argparse.Namespace, paths: Mapping[str, str]) -> dict[str, Any]:
    """Parameters and seconds of the joint model and the single ones."""
    labels = [JOINT, *(label for label in paths if label.startswith(_SINGLE))]
    configs = {label: model.load_config(paths[label]) for label in labels}
    networks = {n: model.build_model(c, 0, 'cpu') for n, c in configs.items()}
    channels = sum(model.input_channels(configs[JOINT]))
    x = torch.randn(
        1, channels, *args.shape, generator=torch.Generator().manual_seed(0)
    )
    forward, each = task_cost.medians(
        task_cost.forward_steps(networks, x), args.repeats
    )
    cfg = configs[JOINT]
    if args.data_root:
        cfg.train_dataloader.dataset.data_root = args.data_root
    step, steps = task_cost.medians(
        task_cost.training_steps(cfg, WRAPPERS, 0), args.repeats
    )
    total = [sum(times) for times in zip(*(each[n] for n in labels[1:]), strict=True)]
    ratios = {
        'joint / segmentation': measure.ratio(each[JOINT], each[f'{_SINGLE}seg']),
        'joint / all single': measure.ratio(each[JOINT], total),
        'features / plain step': measure.ratio(steps['features'], steps['plain']),
        'parameters / plain step': measure.ratio(steps['parameters'], steps['plain']),
    }
    return {
        'input': list(x.shape),
        'threads': args.threads,
        'parameters': {n: task_cost.trained_parameters(m) for n, m in networks.items()},
        'forward_seconds': forward,
        'step_seconds': step,
        'ratios': ratios,
    }


def cost_table(found: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The ratios, for the terminal."""
    rows = [
        [name, f'{ratio["median"]:.2f}', f'{ratio["q1"]:.2f}-{ratio["q3"]:.2f}']
        for name, ratio in found['ratios'].items()
    ]
    return ['cost', 'ratio', '(IQR)'], rows


if __name__ == '__main__':
    # A terminated script must end its trainings too, as an interrupted one does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    main()
