"""Draw what a config's data pipeline gives: every modality, and the truth.

    python tools/browse_dataset.py CONFIG --number 20 --draws 2

mmseg's own browse_dataset.py shows the first three channels. Here each sample is one
panel, as the network gets it: augmented, cropped, with invalid pixels hatched. Sources
of a mixed data set, views of test-time augmentation and boxes or maps of further tasks
are drawn too. The augmentation is seeded: the same command draws the same panels.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope
from rich.progress import track
from torch import Tensor

from mmseg_xmodal.datasets.samplers import SeededIndex, derive_seed, seeded_rng
from mmseg_xmodal.registry import DATASETS
from mmseg_xmodal.structures import ModalityLayout
from mmseg_xmodal.visualization import XModalVisualizer, views_from_inputs


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config')
    parser.add_argument('--split', choices=['train', 'val', 'test'], default='train')
    parser.add_argument(
        '--number', type=int, default=20, help='samples, evenly spaced (default: 20)'
    )
    parser.add_argument(
        '--draws', type=int, default=1, help='panels of each sample (default: 1)'
    )
    parser.add_argument('--seed', type=int, default=0, help='of the augmentation')
    parser.add_argument(
        '--output-dir', help='default: work_dirs/browse/NAME-OF-CONFIG/SPLIT'
    )
    parser.add_argument(
        '--show', action='store_true', help='open a window instead of writing files'
    )
    parser.add_argument(
        '--show-interval', type=float, default=2, help='seconds; 0 waits for a key'
    )
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={})
    args = parser.parse_args(argv)
    for name in ('number', 'draws'):
        if getattr(args, name) < 1:
            parser.error(f'--{name} got {getattr(args, name)}, expected at least 1')
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 0 on success."""
    args = parse_args(argv)
    try:
        written = browse(args)
    except (ValueError, TypeError, FileNotFoundError) as error:
        print(f'browse_dataset.py: {error}', file=sys.stderr)
        return 1
    if not args.show:
        print(f'{written} panels in {output_dir(args)}')
    return 0


def browse(args: argparse.Namespace) -> int:
    """Draw the panels that the arguments ask for.

    Returns:
        Their number.

    Raises:
        ValueError: If the config has no such data set, or its samples no picture.
    """
    config = Config.fromfile(args.config)
    config.merge_from_dict(args.cfg_options)
    init_default_scope(config.get('default_scope', 'mmseg'))
    loader = config.get(f'{args.split}_dataloader')
    if loader is None:
        has = [key for key in config if key.endswith('_dataloader')]
        raise ValueError(
            f'{args.config}: there is no {args.split}_dataloader, only {has}. Choose '
            'another --split.'
        )
    dataset = DATASETS.build(loader['dataset'])
    visualizer = XModalVisualizer()
    visualizer.dataset_meta = dataset.metainfo
    count = 0
    draws = [
        (i, d) for i in chosen(len(dataset), args.number) for d in range(args.draws)
    ]
    for index, draw in track(draws, description='Browsing', disable=args.show):
        for name, inputs, sample in pictures(load(dataset, index, draw, args.seed)):
            title = title_of(sample, f'{index:05d}', name, f'draw{draw}')
            visualizer.add_datasample(
                title,
                views_from_inputs(inputs, layout_of(dataset, index)),
                sample,
                draw_pred=False,
                show=args.show,
                wait_time=args.show_interval,
                out_file=None if args.show else str(output_dir(args) / f'{title}.png'),
            )
            count += 1
    return count


def output_dir(args: argparse.Namespace) -> Path:
    """Where the panels go."""
    if args.output_dir:
        return Path(args.output_dir)
    return Path('work_dirs', 'browse', Path(args.config).stem, args.split)


def chosen(length: int, number: int) -> list[int]:
    """``number`` positions, or all, evenly spaced from the first one on."""
    number = min(number, length)
    return [i * length // number for i in range(number)]


def load(dataset: Any, index: int, draw: int, seed: int) -> Any:
    """One draw of one sample, seeded the way that the samplers of training do."""
    seed = derive_seed(seed, index, draw)
    # The context serves data sets of mmseg, which do not look at the index's seed.
    with seeded_rng(seed):
        return dataset[SeededIndex(index, seed)]


def pictures(packed: Any, name: str = '') -> Iterator[tuple[str, Tensor, Any]]:
    """The inputs of a packed sample with their data samples, one per view.

    Raises:
        TypeError: If the pipeline does not end with a packed sample.
    """
    if not (isinstance(packed, dict) and {'inputs', 'data_samples'} <= set(packed)):
        keys = sorted(packed) if isinstance(packed, dict) else type(packed).__name__
        raise TypeError(
            f'The pipeline gives {keys}, expected inputs and data_samples. End it with '
            "dict(type='mmseg_xmodal.PackXModalInputs')."
        )
    inputs, samples = packed['inputs'], packed['data_samples']
    if isinstance(inputs, Tensor):
        yield name, inputs, samples
        return
    keys = list(inputs) if isinstance(inputs, dict) else range(len(inputs))
    for key in keys:
        view = f'view{key}' if isinstance(key, int) else str(key)
        yield from pictures(dict(inputs=inputs[key], data_samples=samples[key]), view)


def title_of(sample: Any, position: str, view: str, draw: str) -> str:
    """Name of a panel; the number in front keeps samples of equal stems apart."""
    stem = Path(sample.metainfo.get('img_path') or 'array').stem
    source = sample.metainfo.get('source', '')
    return '_'.join(filter(None, [position, source, stem, view, draw]))


def layout_of(dataset: Any, index: int) -> ModalityLayout | None:
    """Layout of the data set that sample ``index`` comes from, None in plain mmseg."""
    while not hasattr(dataset, 'layout'):
        if hasattr(dataset, 'datasets'):
            which, index = dataset._get_ori_dataset_idx(index)
            dataset = dataset.datasets[which]
        elif hasattr(dataset, 'dataset'):
            # mmseg's MultiImageMixDataset has as many samples as what it wraps.
            inner = getattr(dataset, '_get_ori_dataset_idx', int)
            dataset, index = dataset.dataset, inner(index)
        else:
            return None
    return dataset.layout


if __name__ == '__main__':
    sys.exit(main())
