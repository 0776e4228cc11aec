"""Parameters, FLOPs, speed and memory of a config, alone or against its published form.

    python tools/benchmark/speed.py CONFIG --shape 480 640 --threads 1 \
        --against published --out benchmarks/speed_NAME.json

Forward: eval mode, no gradients, stacked input to low-resolution logits. Training step:
forward, loss, backward; no optimiser. Against the published form, outputs, loss and
gradients are compared before anything is timed; beyond the tolerance the script stops
with status 1. Then both forms are timed in turn, in one process, with the same weights.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.config import Config, DictAction
from xbench import common, measure, memory, model, render

# Pixels. An identity holds at every size; fp64 at full size takes long.
_EXACT_SIDE = 128


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config')
    parser.add_argument('--shape', type=int, nargs=2, default=[480, 640])
    parser.add_argument('--batch', type=int, default=1)
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--device', default='cpu', help='cpu, cuda or cuda:N')
    parser.add_argument('--precision', choices=['fp32', 'bf16'], default='fp32')
    parser.add_argument(
        '--against', help="'published', or a Python file with a dict PUBLISHED"
    )
    parser.add_argument('--repeats', type=int, default=10)
    parser.add_argument('--tolerance', type=float, default=1e-4)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--memory', action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={})
    parser.add_argument('--out', help='JSON file, for example benchmarks/NAME.json')
    args = parser.parse_args(argv)
    if min(args.batch, args.repeats, *args.shape) < 1:
        parser.error('--batch, --repeats and --shape must be at least 1')
    if args.device.startswith('cuda') and not torch.cuda.is_available():
        parser.error(f'--device {args.device}: torch sees no CUDA device here')
    return args


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    args = parse_args(argv)
    common.set_threads(args.threads)
    try:
        result = run(args)
    except (ValueError, TypeError, FileNotFoundError) as error:
        common.fail(str(error))
    result['command'] = common.command_line('speed.py', argv)
    print(render.speed([result]))
    if args.out:
        common.write_json(args.out, result)
        print(f'written to {args.out}')


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure what the arguments ask for.

    Raises:
        SystemExit: With status 1 if the outputs of the two forms differ.
    """
    cfg = model.load_config(args.config, args.cfg_options)
    torch.backends.cudnn.benchmark = bool(
        cfg.get('env_cfg', {}).get('cudnn_benchmark', False)
    )
    network = model.build_model(cfg, args.seed, args.device)
    forms = [model.our_form(network)]
    if args.against:
        kind = cfg.model.backbone.type
        forms.append(model.published_form(network, kind, args.against, args.device))
    classes = network.decode_head.num_classes
    x, samples = model.make_batch(
        cfg, classes, tuple(args.shape), args.batch, args.seed, args.device
    )
    result: dict[str, Any] = {
        'kind': 'speed',
        'config': common.public_path(args.config),
        'environment': common.environment(args.device),
        'settings': settings(args, x),
    }
    if args.against:
        result['comparison'] = check_equal(cfg, forms, (x, samples), args)
    result['forms'] = {
        form.name: {
            'parameters': measure.parameters(form),
            'flops': measure.flops(form, x),
        }
        for form in forms
    }
    seconds = time_forms(forms, x, samples, args)
    for mode, by_form in seconds.items():
        for name, values in by_form.items():
            result['forms'][name][mode] = {
                'seconds': measure.spread(values),
                'peak_mib': None,
            }
    if args.memory:
        add_memory(result, forms, x, samples, args)
    if args.against:
        result['ratios'] = ratios(result, seconds)
    return result


def settings(args: argparse.Namespace, x: torch.Tensor) -> dict[str, Any]:
    return {
        'input': list(x.shape),
        'threads': args.threads,
        'device': args.device,
        'precision': args.precision,
        'repeats': args.repeats,
        'seed': args.seed,
        'against': common.public_path(args.against) if args.against else None,
        'cudnn_benchmark': torch.backends.cudnn.benchmark,
        'flops': 'torch.utils.flop_counter, 2 per multiply-add',
        'train': 'forward, loss, backward; no optimiser',
    }


def check_equal(
    cfg: Config, forms: list[model.Form], batch: measure.Batch, args: argparse.Namespace
) -> dict[str, Any]:
    """Compare the forms; stop the script if they differ."""
    small = tuple(min(side, _EXACT_SIDE) for side in args.shape)
    classes = forms[0].module.decode_head.num_classes
    # Two samples: a BN over one pooled value cannot train.
    exact = model.make_batch(cfg, classes, small, 2, args.seed, args.device)
    comparison = measure.compare(forms, batch, exact, args.precision, args.tolerance)
    print(render.comparison(comparison))
    if not comparison['passed']:
        common.fail(
            'ours and the published form differ by more than is allowed (table above); '
            'nothing was timed. Make them equal, or say why with --tolerance.'
        )
    return comparison


def time_forms(
    forms: list[model.Form], x: torch.Tensor, samples: list, args: argparse.Namespace
) -> dict[str, dict[str, list[float]]]:
    warmup = 2
    seconds = {}
    for mode in ('forward', 'train'):
        steps = {
            form.name: measure.make_step(form, mode, x, samples, args.precision)
            for form in forms
        }
        total = (warmup + args.repeats) * len(forms)
        with common.progress(f'timing {total} {mode} steps') as progress:
            task = progress.add_task(mode, total=total)
            seconds[mode] = measure.time_alternately(
                steps,
                args.repeats,
                args.device,
                warmup,
                tick=lambda p=progress, t=task: p.advance(t),
            )
        for form in forms:
            form.module.zero_grad(set_to_none=True)
    return seconds


def add_memory(
    result: dict[str, Any],
    forms: list[model.Form],
    x: torch.Tensor,
    samples: list,
    args: argparse.Namespace,
) -> None:
    cases = [(form, mode) for form in forms for mode in ('forward', 'train')]
    with common.progress('measuring peak memory') as progress:
        for form, mode in progress.track(cases, description='memory'):
            if args.device.startswith('cuda'):
                step = measure.make_step(form, mode, x, samples, args.precision)
                peak = memory.cuda_peak(step, args.device)
                form.module.zero_grad(set_to_none=True)
            else:
                peak = memory.cpu_peak(
                    dict(
                        config=args.config,
                        options=args.cfg_options,
                        shape=args.shape,
                        batch=args.batch,
                        seed=args.seed,
                        threads=args.threads,
                        against=args.against,
                        precision=args.precision,
                        form=form.name,
                        mode=mode,
                    )
                )
            result['forms'][form.name][mode]['peak_mib'] = peak


def ratios(
    result: dict[str, Any], seconds: dict[str, dict[str, list[float]]]
) -> dict[str, Any]:
    """Published over ours: per-round time ratios, and peak memory."""
    ratios: dict[str, Any] = {}
    ours, published = result['forms']['ours'], result['forms']['published']
    for mode, by_form in seconds.items():
        ratios[mode] = {
            'time': measure.ratio(by_form['published'], by_form['ours']),
            'memory': None,
        }
        if ours[mode]['peak_mib']:
            ratios[mode]['memory'] = (
                published[mode]['peak_mib'] / ours[mode]['peak_mib']
            )
    ratios['flops'] = published['flops'] / max(ours['flops'], 1)
    return ratios


if __name__ == '__main__':
    main()
