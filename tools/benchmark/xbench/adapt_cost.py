"""What a training step of an adaptation costs beside a supervised one of its student.

Both are ``train_step`` with an SGD of the rate 0: preprocessor, forward, backward. The
supervised one sees as many source images as the adapted one, which has its share of
target images besides. Images and labels are made up. Colour augmentation of the terms
is timed apart and taken off. Loading and the teacher's average are not counted.

Peak memory is that of memory.py. Run as ``python -m xbench.adapt_cost JSON`` for it.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmseg_xmodal.structures import ModalityLayout

from . import common, measure, memory, model

FORMS = ('supervised', 'summed', 'sequential')
_ADAPTIVE = 'DomainAdaptiveSegmentor'
_BLOCK = 16  # pixels; side of the areas of one class
_SMALL = 64  # pixels; for a first step, so that lazily loaded kernels do not count


class Stopwatch:
    """An augmentation that adds up its time.

    Args:
        augment: A ``StrongAugmentation``.
        device: Its images'; CUDA is waited for.

    Attributes:
        seconds: Since the last reset.
    """

    def __init__(self, augment: Any, device: str) -> None:
        self.augment, self.cuda = augment, device.startswith('cuda')
        self.seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.augment, name)

    def __call__(self, *args: Any) -> Any:
        start = self._now()
        changed = self.augment(*args)
        self.seconds += self._now() - start
        return changed

    def _now(self) -> float:
        if self.cuda:
            torch.cuda.synchronize()
        return time.perf_counter()


def measure_all(args: argparse.Namespace, paths: dict[str, str]) -> dict[str, Any]:
    """Steps of every config that adapts.

    Args:
        args: ``shape``, ``device``, ``threads``, ``repeats``, ``no_memory``.
        paths: Config by label; those that do not adapt are left out.

    Raises:
        ValueError: If none adapts.
    """
    common.set_threads(args.threads)
    return {
        label: _measure_config(args, cfg, paths[label])
        for label, cfg in adapting(paths).items()
    }


def adapting(paths: dict[str, str]) -> dict[str, Config]:
    """Those configs that adapt, by label.

    Raises:
        ValueError: If none does.
    """
    configs = {label: model.load_config(path) for label, path in paths.items()}
    found = {
        label: cfg
        for label, cfg in configs.items()
        if cfg.model.type.rpartition('.')[2] == _ADAPTIVE
    }
    if not found:
        raise ValueError(
            f'None of {list(paths)} has a {_ADAPTIVE} as model, which --costs and '
            '--processes measure. Give an adapted config, or leave the option out.'
        )
    return found


def image_size(args: argparse.Namespace, cfg: Config, path: str) -> list[int]:
    """Height and width of the images: ``--shape``, or the crops of the config.

    Raises:
        ValueError: If there is neither.
    """
    shape = args.shape or cfg.get('crop_size')
    if shape is None:
        raise ValueError(f'{path} has no crop_size. Give --shape HEIGHT WIDTH.')
    return list(shape)


def _measure_config(args: argparse.Namespace, cfg: Config, path: str) -> dict[str, Any]:
    shape = image_size(args, cfg, path)
    trainings = {form: make_training(cfg, form, shape, args.device) for form in FORMS}
    seconds: dict[str, list[float]] = {form: [] for form in FORMS}
    augment: dict[str, list[float]] = {form: [] for form in FORMS}

    def timed(form: str) -> Callable[[], None]:
        def run() -> None:
            watches = trainings[form].watches
            for watch in watches:
                watch.seconds = 0.0
            trainings[form].step()
            augment[form].append(sum(watch.seconds for watch in watches))

        return run

    whole = measure.time_alternately(
        {form: timed(form) for form in FORMS}, args.repeats, args.device
    )
    for form, values in whole.items():
        own = augment[form] = augment[form][-len(values) :]
        seconds[form] = [a - b for a, b in zip(values, own, strict=True)]
    peaks = {form: _peak(args, path, form, shape) for form in FORMS}
    sources, targets = domain_counts(cfg)
    return {
        'images': {'source': sources, 'target': targets, 'size': shape},
        'forms': {
            form: {
                'seconds': measure.spread(seconds[form]),
                'augmentation_seconds': measure.spread(augment[form]),
                'ratio': measure.ratio(seconds[form], seconds['supervised']),
                'peak_mib': peaks[form],
            }
            for form in FORMS
        },
    }


def domain_counts(cfg: Config) -> tuple[int, int]:
    """Images of the source and of the target in a batch of the config."""
    sampler = cfg.train_dataloader.sampler
    batch, ratio = sampler.batch_size, list(sampler.get('source_ratio') or [1, 1])
    sources = max(1, round(batch * ratio[0] / sum(ratio)))
    return sources, max(1, batch - sources)


@dataclasses.dataclass
class Training:
    """A model that is about to train on one made-up batch.

    Args:
        network: The student, or the adaptation around it.
        wrapper: Its optimiser, of the rate 0.
        data: The batch.
        watches: The stopwatches of its augmentations.
    """

    network: Any
    wrapper: Any
    data: dict[str, list]
    watches: list[Stopwatch]

    def step(self) -> None:
        """Train once on the batch."""
        self.network.train_step(self.data, self.wrapper)


def make_training(
    cfg: Config, form: str, shape: Sequence[int], device: str
) -> Training:
    """Build what trains.

    Args:
        cfg: Config of an adaptation.
        form: ``'supervised'`` (the student on the source), ``'summed'`` or
            ``'sequential'``.
        shape: Height and width of the images.
        device: Of the model.
    """
    own = cfg.copy()
    own.model = dict(cfg.model.student if form == 'supervised' else cfg.model)
    if form != 'supervised':
        own.model['backward'] = form
    network: Any = model.build_model(own, 0, device).train()
    watches = []
    for term in getattr(network, 'terms', ()):
        if getattr(term, 'augment', None) is not None:
            term.augment = Stopwatch(term.augment, device)
            watches.append(term.augment)
        network.teacher_hooked = True
    entries = dict(cfg.optim_wrapper)
    entries.pop('paramwise_cfg', None)
    if form == 'supervised':  # without what adversaries need
        entries = {'type': entries['type']}
    entries['optimizer'] = dict(type='SGD', lr=0.0)
    wrapper = build_optim_wrapper(network, entries)
    sources, targets = domain_counts(cfg)
    data = made_up_batch(cfg, shape, sources, 0 if form == 'supervised' else targets)
    return Training(network, wrapper, data, watches)


def made_up_batch(
    cfg: Config, shape: Sequence[int], sources: int, targets: int
) -> dict[str, list]:
    """What a data loader would give: stacked images, and labels of the source.

    Shape:
        - inputs: (C, H, W) each, uint8 or float32 as the modalities want it
        - labels: (1, H, W) int64 each, areas of 16 x 16 pixels
    """
    preprocessor = cfg.model.student.get('data_preprocessor') or {}
    channels, dtype = 3, torch.uint8
    if 'modalities' in preprocessor:
        layout = ModalityLayout.build(preprocessor['modalities'])
        channels = layout.stack_channels
        dtype = torch.uint8 if layout.stack_dtype is np.uint8 else torch.float32
    classes = max(2, cfg.model.student.decode_head.num_classes)
    generator = torch.Generator().manual_seed(0)
    height, width = shape
    inputs, samples = [], []
    for i in range(sources + targets):
        size = (channels, height, width)
        pixels = torch.randint(256, size, generator=generator)
        inputs.append(pixels.to(dtype))
        shapes = dict.fromkeys(('img_shape', 'ori_shape', 'pad_shape'), (height, width))
        domain = 'source' if i < sources else 'target'
        sample = SegDataSample(metainfo=dict(shapes, domain=domain, img_path=str(i)))
        if i < sources:
            grid = (1, -(-height // _BLOCK), -(-width // _BLOCK))
            areas = torch.randint(classes, grid, generator=generator)
            for dim in (1, 2):
                areas = areas.repeat_interleave(_BLOCK, dim)
            sample.gt_sem_seg = PixelData(data=areas[:, :height, :width].clone())
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)


def as_table(costs: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """One row per config and form."""
    rows = []
    for label, found in costs.items():
        base = found['forms']['supervised']['peak_mib']
        for form, values in found['forms'].items():
            ratio, peak = values['ratio'], values['peak_mib']
            row = [label, form, f'{1000 * values["seconds"]["median"]:.4g}']
            row += [f'{ratio["median"]:.2f}', f'{ratio["q1"]:.2f}-{ratio["q3"]:.2f}']
            row.append(f'{1000 * values["augmentation_seconds"]["median"]:.3g}')
            row.append('' if peak is None else f'{peak:.0f}')
            row.append('' if not (peak and base) else f'{peak / base:.2f}')
            rows.append(row)
    header = ['config', 'step', 'ms', 'ratio', '(IQR)', 'augmentation ms']
    return [*header, 'MiB', 'MiB ratio'], rows


def _peak(
    args: argparse.Namespace, path: str, form: str, shape: list[int]
) -> float | None:
    if args.no_memory:
        return None
    if args.device.startswith('cuda'):
        training = make_training(model.load_config(path), form, shape, args.device)
        training.step()
        return memory.cuda_peak(training.step, args.device)
    request = dict(config=path, form=form, shape=shape, threads=args.threads)
    return memory.in_fresh_process(__name__, request, f'{form} of {path}')


def _measure_here(request: dict[str, Any]) -> float:
    common.set_threads(request['threads'])
    training_at = functools.partial(
        make_training,
        model.load_config(request['config']),
        request['form'],
        device='cpu',
    )
    training_at((_SMALL, _SMALL)).step()
    return memory.growth(training_at(request['shape']).step)


if __name__ == '__main__':
    memory.report(_measure_here(json.loads(sys.argv[1])))
