"""Attention operations: are they right on this device, how fast, in how much memory.

    python tools/benchmark/ops.py --device cuda            writes benchmarks/<gpu>.json
    python tools/benchmark/ops.py --device cpu --quick     small sizes, a few seconds

Needs torch (and Triton on CUDA), no mmseg. First every check of xbench/ops_checks.py
runs; if one fails nothing is timed and the status is 1. Then ours is timed against the
other forms: the PyTorch reference, a composition of grid_sample, mmcv's CUDA operation
where it is installed (always float32), einsum, and SDPA. The time of ours is the mean
of one before and one after the other forms.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
from collections.abc import Sequence
from typing import Any

import torch
from xbench import common, ops_alone, ops_measure, ops_targets

# A case whose two timings differ by more was disturbed.
_STEADY = 1.1
DTYPES = ('fp32', 'bf16', 'fp16')


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--device', default='cuda', help='cpu, cuda or cuda:N')
    parser.add_argument('--dtypes', nargs='+', choices=DTYPES)
    parser.add_argument('--repeats', type=int, default=50)
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--quick', action='store_true', help='small sizes')
    parser.add_argument('--only', help='regular expression of the cases to time')
    parser.add_argument('--checks-only', action='store_true')
    parser.add_argument('--out', help='default on CUDA: benchmarks/<gpu>.json')
    args = parser.parse_args(argv)
    if args.repeats < 1 or args.threads < 1:
        parser.error('--repeats and --threads must be at least 1')
    if args.device.startswith('cuda') and not torch.cuda.is_available():
        parser.error(f'--device {args.device}: torch sees no CUDA device here')
    if args.dtypes is None:
        cuda = args.device.startswith('cuda')
        args.dtypes = list(DTYPES) if cuda else ['fp32']
    return args


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    args = parse_args(argv)
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    if device.index is not None:
        torch.cuda.set_device(device)  # events are recorded there
    ops_alone.import_ops()
    checks = run_checks(args.device)
    failed = [name for name, error in checks.items() if error]
    if failed:
        common.fail(f'{len(failed)} of {len(checks)} checks failed: {failed}')
    print(f'{len(checks)} checks passed on {args.device}')
    if args.checks_only:
        return
    result = measure(args)
    result['checks'] = len(checks)
    result['command'] = common.command_line('ops.py', argv)
    print(common.table(result['header'], result['rows']))
    for target in result['targets']:
        print('met   ' if target['met'] else 'MISSED', target['what'])
    out = args.out or default_name(args)
    if out:
        common.write_json(out, result)
        print(f'written to {out}')


def default_name(args: argparse.Namespace) -> str | None:
    """Name the result after the GPU; none for a CPU or a part of the cases."""
    part = args.quick or args.only is not None or len(args.dtypes) < len(DTYPES)
    if part or not args.device.startswith('cuda'):
        return None
    name = torch.cuda.get_device_name(torch.device(args.device))
    return f'benchmarks/{re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")}.json'


def run_checks(device: str) -> dict[str, str]:
    """Run every check; return what failed, empty where it passed."""
    from xbench import ops_checks

    found = {}
    for name, check in ops_checks.all_checks(device):
        try:
            check()
            found[name] = ''
        except Exception as error:  # a kernel that does not compile is one failure
            found[name] = f'{type(error).__name__}: {error}'
            print(f'FAILED {name}: {found[name]}', file=sys.stderr)
    return found


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Time all cases and put them into a table."""
    from xbench import ops_cases

    cuda = args.device.startswith('cuda')
    size = (1 << 30) if cuda else (1 << 24)
    bandwidth = ops_measure.copy_bandwidth(args.device, size, 10)
    where = (args.device, args.dtypes, args.quick, args.seed)
    cases = [*ops_cases.msda_cases(*where), *ops_cases.other_cases(*where)]
    if args.only is not None:
        names = sorted({case.name for case in cases})
        cases = [case for case in cases if re.search(args.only, case.name)]
        if not cases:
            common.fail(f'--only {args.only!r} fits none of the cases {names}')
    found = []
    for case in cases:
        for mode in ('forward', 'training'):
            print(f'{case.name}, {case.dtype}, {mode} ...', file=sys.stderr, flush=True)
            found.append(measure_case(case, mode, args))
    return {
        'kind': 'table',
        'environment': common.environment(args.device),
        'settings': {
            'threads': args.threads,
            'device': args.device,
            'repeats': args.repeats,
            'seed': args.seed,
            'quick': args.quick,
            'only': args.only,
        },
        'copy_gb_per_second': bandwidth / 1e9,
        'header': [
            *('operation', 'dtype', 'mode', 'form', 'ms', 'times ours', 'MiB'),
            *('GB/s', 'of copy'),
        ],
        'rows': [row for entry in found for row in rows_of(entry, bandwidth)],
        'cases': found,
        'targets': [] if args.quick else ops_targets.verdicts(found, bandwidth, cuda),
    }


def measure_case(case: Any, mode: str, args: argparse.Namespace) -> dict[str, Any]:
    """Time every form of one case, ours first and last; memory of each."""
    forms: dict[str, Any] = {}
    for name, form in case.forms.items():
        tensors = case.baseline.get(name, case.tensors)
        try:
            step = make_step(form, tensors, mode)
            forms[name] = {
                'seconds': ops_measure.seconds(step, args.device, args.repeats),
                'mib': ops_measure.peak_bytes(step, args.device) / 2**20,
            }
        except torch.cuda.OutOfMemoryError:
            if name == 'ours':
                raise
            forms[name] = {'seconds': None, 'mib': None}
    again = make_step(case.forms['ours'], case.tensors, mode)
    timings = [
        forms['ours']['seconds'],
        ops_measure.seconds(again, args.device, args.repeats),
    ]
    forms['ours'].update(seconds=statistics.fmean(timings), timings=timings)
    if max(timings) > _STEADY * min(timings):
        first, last = (1000 * t for t in timings)
        print(
            f'unsteady: {case.name}, {case.dtype}, {mode}: {first:.3f} ms before the '
            f'other forms, {last:.3f} ms after them',
            file=sys.stderr,
        )
    return {
        'name': case.name,
        'dtype': case.dtype,
        'mode': mode,
        'bytes': case.bytes if mode == 'forward' else case.bytes_training,
        'forms': forms,
    }


def make_step(form: Any, tensors: list[torch.Tensor], mode: str) -> Any:
    """Return a function that runs the form, with gradients in training."""
    if mode == 'forward':
        return torch.no_grad()(lambda: form(*tensors))
    leaves = [x.detach().requires_grad_() for x in tensors]
    with torch.no_grad():
        cotangent = torch.randn_like(form(*tensors))
    return lambda: torch.autograd.grad(form(*leaves), leaves, cotangent)


def rows_of(entry: dict[str, Any], bandwidth: float) -> list[list[str]]:
    ours = entry['forms']['ours']['seconds']
    rows = []
    for name, form in entry['forms'].items():
        row = [entry['name'], entry['dtype'], entry['mode'], name]
        if form['seconds'] is None:
            rows.append([*row, 'out of memory', '', '', '', ''])
            continue
        rate = entry['bytes'] / form['seconds']
        row += [f'{form["seconds"] * 1000:.3f}', f'{form["seconds"] / ours:.2f}x']
        row += [f'{form["mib"]:.1f}', f'{rate / 1e9:.1f}', f'{rate / bandwidth:.0%}']
        rows.append(row if name == 'ours' else [*row[:-2], '', ''])
    return rows


if __name__ == '__main__':
    main()
