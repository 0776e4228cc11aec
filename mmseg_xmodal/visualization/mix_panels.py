"""Panels of images mixed of two domains, with their labels and weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmseg_xmodal.models.adaptation.class_mix import LastMix
from mmseg_xmodal.models.layers.colour_space import colour_spaces
from mmseg_xmodal.models.layers.pseudo_labels import PseudoLabels
from mmseg_xmodal.structures import ModalityLayout

from .colours import Colour, colour_labels, viridis
from .panels import Tile, compose
from .views import ModalityView
from .visualizer import modality_tile

_TILE_WIDTH = (240, 420)


def mix_panel(
    mix: LastMix,
    preprocessor: nn.Module,
    classes: Sequence[str],
    palette: Sequence[Sequence[int]],
    count: int = 2,
) -> np.ndarray:
    """Source, target, mixed image, mixed label, pseudo-label and weight of some pairs.

    With several modalities each has a row of its own, labels follow.

    Args:
        mix: Of a step.
        preprocessor: Made the images; undone as far as it is known how.
        classes: Names for the legend.
        palette: RGB colour of each class.
        count: Pairs, from the first one.

    Shape:
        - output: (H, W, 3), uint8, RGB
    """
    count = min(count, len(mix.target))
    parts = []
    seen: set[int] = set()
    hatched = False
    for i in range(count):
        tiles = _image_tiles(mix, i, preprocessor)
        columns = 6 if len(tiles) == 3 else 3
        labels = _label_tiles(mix, i, palette)
        for part in (mix.labels, mix.pseudo):
            seen.update(int(k) for k in part.label[i].unique())
        hatched |= any(t.marked is not None and t.marked.any() for t in labels)
        last = i == count - 1
        legend = _legend(seen, classes, palette, hatched) if last else []
        parts.append(compose(tiles + labels, legend, _TILE_WIDTH, columns))
    return np.concatenate(parts)


def _image_tiles(mix: LastMix, index: int, preprocessor: nn.Module) -> list[Tile]:
    images = dict(source=mix.source, target=mix.target, mixed=mix.mixed)
    views = {k: input_views(v[index], preprocessor) for k, v in images.items()}
    names = dict(zip(('source', 'target'), mix.names[index], strict=True))
    tiles = []
    for modality in views['source']:
        for key, own in views.items():
            name = key if len(own) == 1 else f'{key} {modality}'
            stem = Path(names.get(key) or '').stem
            tile = modality_tile(name, own[modality])
            caption = f'{tile.caption}: {stem}' if stem else tile.caption
            tiles.append(Tile(**dict(vars(tile), caption=caption)))
    return tiles


def _label_tiles(
    mix: LastMix, index: int, palette: Sequence[Sequence[int]]
) -> list[Tile]:
    tiles = []
    for caption, part in (('mixed label', mix.labels), ('pseudo-label', mix.pseudo)):
        image, outside = colour_labels(part.label[index].cpu().numpy(), palette)
        tiles.append(Tile(image, caption, outside, smooth=False))
    weight = _weight(mix.labels, index)
    # Scaled to [0, 1], not to its own range: 0.1 everywhere must not look like 1.
    tiles.append(
        Tile(
            viridis(weight),
            f'weight, mean {weight.mean():.3g}',
            limits=(0.0, 1.0),
            smooth=False,
        )
    )
    return tiles


def _weight(labels: PseudoLabels, index: int) -> np.ndarray:
    if labels.weight is None:
        own = (labels.label[index] != 255).float()
    else:
        own = labels.weight[index].float()
    return own.cpu().numpy().astype(np.float32)


def _legend(
    seen: set[int],
    classes: Sequence[str],
    palette: Sequence[Sequence[int]],
    hatched: bool,
) -> list[tuple[str, Colour | None]]:
    legend: list[tuple[str, Colour | None]] = []
    for i in sorted(seen):
        if 0 <= i < len(palette):
            r, g, b = (int(v) for v in palette[i])
            legend.append((classes[i], (r, g, b)))
    return [*legend, ('ignored', None)] if hatched else legend


def input_views(image: Tensor, preprocessor: Any) -> dict[str, ModalityView]:
    """Pictures of what a network got, one per modality.

    Args:
        image: One normalised image of a batch.
        preprocessor: ``ModalityPreprocessor``, or mmseg's with mean and std of three
            channels. Of another one the first three channels are shown, stretched.

    Shape:
        - image: (C, H, W)
    """
    layout = getattr(preprocessor, 'layout', None)
    if isinstance(layout, ModalityLayout):
        return _layout_views(image, preprocessor, layout)
    try:
        space = colour_spaces(preprocessor)[0]
    except ValueError:
        values = image[: 3 if len(image) >= 3 else 1].float().cpu()
        return {'image': _view(values, torch.ones(image.shape[1:]))}
    colour = space.read(image[None])[0].cpu()
    return {'image': _view(colour, torch.ones(image.shape[1:]), colour=True)}


def _layout_views(
    image: Tensor, preprocessor: Any, layout: ModalityLayout
) -> dict[str, ModalityView]:
    values = image[: layout.num_values].float() * preprocessor.std + preprocessor.mean
    flags = image[layout.num_values :].cpu()
    views = {}
    for i, m in enumerate(layout):
        own = values[layout.value_slice(m.name)].cpu()
        if m.order == 'bgr':
            own = own.flip(0)
        valid = flags[i] if i < len(flags) else torch.ones(image.shape[1:])
        views[m.name] = _view(own, valid, m.order is not None, m.unit)
    return views


def _view(
    values: Tensor, valid: Tensor, colour: bool = False, unit: str | None = None
) -> ModalityView:
    array = values.detach().numpy().transpose(1, 2, 0)
    return ModalityView(array, valid.numpy() > 0.5, colour, unit)
