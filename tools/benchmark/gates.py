"""How the gates of a trained model answer to a modality that is partly missing.

    python tools/benchmark/gates.py CONFIG CHECKPOINT --missing depth \
        --data-root data/vizdoom160 --out benchmarks/gates.json --panel gates.png

The right half of the modality is made invalid in every test picture. The table holds
the mean gate of each stream in both halves, by level, over all pictures; the panel
shows one picture with its gates.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, TRANSFORMS, init_default_scope
from mmengine.runner import load_checkpoint
from mmseg.apis import init_model
from torch import nn
from xbench import common

from mmseg_xmodal.datasets.transforms.stack import blank
from mmseg_xmodal.models.necks import AdaptiveGateNeck
from mmseg_xmodal.visualization import compose, views_from_stack
from mmseg_xmodal.visualization.maps import map_tile
from mmseg_xmodal.visualization.panels import save_panel
from mmseg_xmodal.visualization.visualizer import modality_tile


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    parser.add_argument('--missing', required=True, help='the modality')
    parser.add_argument('--data-root', help='replaces that of the config')
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--shown', type=int, default=0, help='number of the picture')
    parser.add_argument('--panel', help='PNG file of the panel')
    parser.add_argument('--out', help='JSON file, for example benchmarks/gates.json')
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    args = parse_args(argv)
    common.set_threads(args.threads)
    try:
        result = run(args)
    except (ValueError, FileNotFoundError) as error:
        common.fail(str(error))
    result['command'] = common.command_line('gates.py', argv)
    print(common.table(result['header'], result['rows']))
    if args.out:
        common.write_json(args.out, result)
        print(f'written to {args.out}')


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Run the model over the test set and average its gates.

    Raises:
        ValueError: If the model has no gates, or the modality cannot be invalid.
    """
    cfg = Config.fromfile(args.config)
    init_default_scope(cfg.default_scope)
    model = init_model(cfg, None, device='cpu')
    load_checkpoint(model, args.checkpoint, map_location='cpu')
    neck = find_neck(model)
    names = model.backbone.input.names
    dataset = cfg.test_dataloader.dataset
    if args.data_root:
        dataset.data_root = args.data_root
    steps = [TRANSFORMS.build(step) for step in dataset.pipeline]
    dataset = DATASETS.build(dict(dataset, pipeline=[]))
    if dataset.layout.stack_validity_index(args.missing) is None:
        raise ValueError(
            f'{args.missing!r} has no validity channel, so it cannot be missing in '
            'places. Give it invalid=... in `modalities`.'
        )
    sums: list[list[np.ndarray]] = []
    with common.progress(f'{len(dataset)} pictures') as progress:
        for index in progress.track(range(len(dataset))):
            sample = half_missing(dataset.get_data_info(index), steps, args.missing)
            with torch.no_grad():
                model.test_step(pseudo_collate([sample]))
            sums.append([halves(gates[0].numpy()) for gates in neck.last_gates])
            if index == args.shown and args.panel:
                save_panel(args.panel, draw(sample, dataset.layout, neck, names))
    means = np.mean(np.asarray(sums), axis=0)
    return table(means, names, args, len(dataset))


def find_neck(model: nn.Module) -> AdaptiveGateNeck:
    """The neck whose gates are looked at."""
    for module in model.modules():
        if isinstance(module, AdaptiveGateNeck):
            return module
    raise ValueError(
        f'{type(model).__name__} has no mmseg_xmodal.AdaptiveGateNeck, whose gates '
        'are measured. Give a config that has one, such as '
        'configs/attention/adaptive-gate_*.py.'
    )


def half_missing(info: dict, steps: Sequence[Any], name: str) -> dict:
    """Run the pipeline, with the right half of a modality made invalid once loaded."""
    results = info
    for step in steps:
        results = step(results)
        if 'img' in results and 'half_missing' not in results:
            width = results['img'].shape[1]
            where = (slice(None), slice(width // 2, None))
            blank(results['img'], results['modality_layout'], name, where)
            results['half_missing'] = name
    return results


def halves(gates: np.ndarray) -> np.ndarray:
    """Mean gate of each stream in the left and in the right half, (N, 2)."""
    middle = gates.shape[2] // 2
    return np.stack(
        [gates[..., :middle].mean((1, 2)), gates[..., middle:].mean((1, 2))], 1
    )


def draw(
    sample: dict, layout: Any, neck: AdaptiveGateNeck, names: Sequence[str]
) -> np.ndarray:
    """The modalities and the gate maps of one picture."""
    stack = sample['inputs']
    size = tuple(stack.shape[1:])
    tiles = [modality_tile(n, v) for n, v in views_from_stack(stack, layout).items()]
    for level, gates in enumerate(neck.last_gates[:2]):
        tiles += [
            map_tile(f'level {level}: gate of {n}', g, size, (0, 1))
            for n, g in zip(names, gates[0].numpy(), strict=True)
        ]
    return compose(tiles, max_columns=4)


def table(
    means: np.ndarray, names: Sequence[str], args: argparse.Namespace, pictures: int
) -> dict[str, Any]:
    """Levels and their mean as rows; stream by half as columns."""
    header = ['level']
    header += [f'{n}, {half}' for n in names for half in ('present', 'missing')]
    labelled = [*enumerate(means), ('mean', means.mean(0))]
    return {
        'kind': 'table',
        'header': header,
        'rows': [
            [str(level), *(f'{v:.3f}' for v in row.reshape(-1))]
            for level, row in labelled
        ],
        'environment': common.environment(),
        'settings': {
            'config': common.public_path(args.config),
            'checkpoint': Path(args.checkpoint).name,
            'missing': args.missing,
            'pictures': pictures,
        },
    }


if __name__ == '__main__':
    main()
