"""Tables of results, the same on the terminal and in the documents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .common import table
from .summary import PER_CLASS, over_seeds

Result = dict[str, Any]


def render(results: Sequence[Result]) -> str:
    """Render results of one kind as one table.

    Raises:
        ValueError: If the kinds differ or one is unknown.
    """
    kinds = {str(result.get('kind')) for result in results}
    kind = kinds.pop()
    if kinds or kind not in RENDERERS:
        raise ValueError(
            f'cannot put results of the kinds {sorted({kind, *kinds})} into one table; '
            f'expected one kind out of {sorted(RENDERERS)}. Name other files.'
        )
    return RENDERERS[kind](results)


def speed(results: Sequence[Result]) -> str:
    """One line per config and form; ratios are published over ours, per round."""
    header = ['config', 'device', 'input', 'form', 'params', 'GFLOP (2 per MAC)']
    header += ['forward', '(IQR)', 'MiB', 'train step', '(IQR)', 'MiB']
    rows = []
    for result in results:
        settings = result['settings']
        name = Path(result['config']).stem
        where = [_device(result), 'x'.join(map(str, settings['input']))]
        for form, values in result['forms'].items():
            row = [name, *where, form, f'{values["parameters"] / 1e6:.2f} M']
            row.append(f'{values["flops"] / 1e9:.2f}')
            for mode in ('forward', 'train'):
                seconds = values[mode]['seconds']
                row += [_seconds(seconds['median']), _quartiles(seconds)]
                row.append(_mib(values[mode]['peak_mib']))
            rows.append(row)
        if 'ratios' in result:
            rows.append([name, *where, '**published / ours**', *_ratios(result)])
    return table(header, rows)


def _ratios(result: Result) -> list[str]:
    ratios = result['ratios']
    cells = ['', f'{ratios["flops"]:.2f}x']
    for mode in ('forward', 'train'):
        times = ratios[mode]['time']
        cells.append(f'**{times["median"]:.2f}x**')
        cells.append(f'{times["q1"]:.2f}-{times["q3"]:.2f}')
        memory = ratios[mode]['memory']
        cells.append('' if memory is None else f'{memory:.2f}x')
    return cells


def _device(result: Result) -> str:
    settings = result['settings']
    if settings['device'].startswith('cuda'):
        return f'{result["environment"]["gpu"]}, {settings["precision"]}'
    threads = settings['threads']
    return f'CPU, {threads} thread{"s" * (threads > 1)}, {settings["precision"]}'


def _seconds(value: float) -> str:
    return f'{value:.2f} s' if value >= 1 else f'{value * 1000:.4g} ms'


def _quartiles(seconds: dict[str, float]) -> str:
    low, high = seconds['q1'], seconds['q3']
    if seconds['median'] >= 1:
        return f'{low:.2f}-{high:.2f}'
    return f'{low * 1000:.4g}-{high * 1000:.4g}'


def _mib(value: float | None) -> str:
    return '' if value is None else f'{value:.0f}'


def comparison(result: Result) -> str:
    """One line per compared quantity."""
    rows = [
        [
            name,
            f'{check["max_abs"]:.2e}',
            f'{check["relative"]:.2e}',
            f'{check["allowed"]:.0e}',
            'equal' if check['relative'] <= check['allowed'] else 'DIFFERENT',
        ]
        for name, check in result['checks'].items()
    ]
    header = ['ours against published', 'max abs', 'relative', 'allowed', '']
    return table(header, rows)


def loader(results: Sequence[Result]) -> str:
    """One line per config and number of workers."""
    rows = [
        [
            Path(result['config']).stem,
            str(entry['workers']),
            str(result['settings']['batch']),
            f'{entry["samples_per_second"]["median"]:.1f}',
            f'{entry["samples_per_second"]["q1"]:.1f}-'
            f'{entry["samples_per_second"]["q3"]:.1f}',
            _seconds(entry['first_batch_seconds']['median']),
        ]
        for result in results
        for entry in result['results']
    ]
    header = ['config', 'workers', 'batch', 'samples/s', '(IQR)', 'first batch']
    return table(header, rows)


def experiment(results: Sequence[Result]) -> str:
    """One line per variant: mIoU over seeds, then the mean IoU of every class."""
    rows: list[list[str]] = []
    names = [n for result in results for run in result['runs'] for n in run['metrics']]
    classes = list(
        dict.fromkeys(
            name.removeprefix(PER_CLASS) for name in names if name.startswith(PER_CLASS)
        )
    )
    for result in results:
        for label, metrics in over_seeds(result['runs']).items():
            miou = metrics['mIoU']
            spread = f'± {miou["std"]:.2f}' if 'std' in miou else ''
            row = [label, str(miou['n']), f'{miou["mean"]:.2f}', spread]
            for name in classes:
                value = metrics.get(PER_CLASS + name)
                row.append('' if value is None else f'{value["mean"]:.1f}')
            rows.append(row)
    return table(['variant', 'seeds', 'mIoU', 'std', *classes], rows)


def plain(results: Sequence[Result]) -> str:
    """Tables that a script wrote as ``header`` and ``rows`` of strings."""
    first = results[0]
    for result in results:
        if result['header'] != first['header']:
            raise ValueError(
                f'cannot join tables with the headers {first["header"]} and '
                f'{result["header"]}. Name them in separate regions.'
            )
    rows = [row for result in results for row in result['rows']]
    return table(first['header'], rows)


def source_line(results: Sequence[Result]) -> str:
    """Say where the figures come from: machines, versions and commands."""
    commands = [f'`{r["command"]}`' for r in results if r.get('command')]
    environments = [r.get('environment', {}) for r in results]
    machines = dict.fromkeys(
        ', '.join(
            [
                str(env.get('gpu', env.get('cpu'))),
                f'torch {env.get("versions", {}).get("torch")}',
            ]
        )
        for env in environments
        if env
    )
    trained = Counter(
        run['device'] for r in results for run in r.get('runs', ()) if 'device' in run
    )
    # The machine named above is that of the table; the runs may be from several.
    devices = ', '.join(f'{n} on {name}' for name, n in trained.items())
    parts = ['; '.join(machines), devices and f'trained: {devices}']
    parts += dict.fromkeys(commands)
    return '<sub>' + '<br>'.join(part for part in parts if part) + '</sub>'


RENDERERS: dict[str, Callable[[Sequence[Result]], str]] = {
    'speed': speed,
    'loader': loader,
    'experiment': experiment,
    'table': plain,
}
