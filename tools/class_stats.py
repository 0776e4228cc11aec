"""Count the classes of a config's data set and suggest class weights.

    python tools/class_stats.py CONFIG --out data/NAME/class_stats.json

The labels are read through the data set's own pipeline. The file serves
`RareClassSampler(stats=FILE)` and `ClassBalancedCrossEntropy(stats=FILE, scheme=...)`;
a second run reads it, unless labels or classes have changed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope

from mmseg_xmodal.datasets import cached_class_stats
from mmseg_xmodal.datasets.class_stats import default_path
from mmseg_xmodal.datasets.label_reader import LABEL_KEY, LabelReader
from mmseg_xmodal.registry import DATASETS
from mmseg_xmodal.structures import ClassStats
from mmseg_xmodal.structures.class_stats import SCHEMES


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config')
    parser.add_argument('--out', help='JSON file (default: beside the labels)')
    parser.add_argument(
        '--dataset',
        default='train_dataloader.dataset',
        help='where it stands in the config, such as val_dataloader.dataset or '
        'train_dataloader.dataset.datasets.0 (default: %(default)s)',
    )
    parser.add_argument(
        '--key',
        default=LABEL_KEY,
        help='label map, or gt_NAME of a further task (default: %(default)s)',
    )
    parser.add_argument(
        '--beta', type=float, default=0.9999, help='of the effective number'
    )
    parser.add_argument('--threads', type=int, default=4, help='files read at a time')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={})
    args = parser.parse_args(argv)
    if args.threads < 1:
        parser.error(f'--threads got {args.threads}, expected at least 1')
    return args


def find(config: Config, path: str) -> dict:
    """Part of a config by its dotted path.

    Raises:
        ValueError: If there is none.
    """
    part = config
    for step in path.split('.'):
        try:
            part = part[int(step)] if isinstance(part, list | tuple) else part[step]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            known = list(part) if isinstance(part, dict) else type(part).__name__
            raise ValueError(
                f'--dataset {path!r}: the config has no {step!r} there (it has: '
                f'{known}). Correct the path.'
            ) from error
    return part


def table(stats: ClassStats, beta: float) -> str:
    """Statistics and weights as a Markdown table, the rarest class last."""
    header = ['id', 'class', 'pixels %', 'images %', *SCHEMES]
    weights = [stats.weights(scheme, beta) for scheme in SCHEMES]
    rows = [
        [
            str(c),
            stats.classes[c],
            f'{100 * stats.pixel_share[c]:.3f}',
            f'{100 * stats.image_share[c]:.2f}',
            *(f'{w[c]:.3g}' for w in weights),
        ]
        for c in sorted(range(len(stats.classes)), key=lambda c: -stats.pixels[c])
    ]
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    rule = ['-' * w if i == 1 else '-' * (w - 1) + ':' for i, w in enumerate(widths)]
    return '\n'.join(
        '| '
        + ' | '.join(
            cell.ljust(w) if i == 1 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        + ' |'
        for row in [header, rule, *rows]
    )


def summary(stats: ClassStats) -> str:
    """Sizes in one line, and what is wrong with the classes."""
    labelled, ignored = int(stats.pixels.sum()), int(stats.ignored.sum())
    share = 100 * ignored / max(labelled + ignored, 1)
    lines = [
        f'{len(stats.files)} samples, {labelled} labelled pixels, {share:.2f} % ignored'
    ]
    unlabelled = stats.files.count('')
    if unlabelled:
        lines.append(f'{unlabelled} samples have no labels.')
    absent = [n for n, p in zip(stats.classes, stats.pixels, strict=True) if not p]
    if absent:
        lines.append(f'never seen: {", ".join(absent)}')
    return '\n'.join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 0 on success."""
    args = parse_args(argv)
    try:
        config = Config.fromfile(args.config)
        config.merge_from_dict(args.cfg_options)
        init_default_scope(config.get('default_scope', 'mmseg'))
        dataset = DATASETS.build(find(config, args.dataset))
        path = args.out or default_path(LabelReader(dataset, args.key))
        stats = cached_class_stats(dataset, path, args.key, threads=args.threads)
        shown = table(stats, args.beta)
    except (ValueError, FileNotFoundError) as error:
        print(f'class_stats.py: {error}', file=sys.stderr)
        return 1
    print(f'{shown}\n{summary(stats)}\nstatistics: {path}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
