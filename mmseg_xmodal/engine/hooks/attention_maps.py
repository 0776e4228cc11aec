"""The hook that draws attention and gate maps of necks."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.visualization import Visualizer
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from mmseg_xmodal.models.layers.map_probe import MapProbe, ShownMap, watch
from mmseg_xmodal.registry import HOOKS
from mmseg_xmodal.visualization import Tile, XModalVisualizer, compose
from mmseg_xmodal.visualization.maps import map_tile
from mmseg_xmodal.visualization.visualizer import modality_tile

from .visualization import batch_views, find_preprocessor, plainest_view


@HOOKS.register_module()
class AttentionMapHook(Hook):
    """Draws the maps of every neck that shows some, beside the modalities.

    Stands in ``custom_hooks``. For a picture that it draws it runs the model once more
    over the whole picture, with slide inference and TTA too; nothing is recorded, and
    nothing costs anything, in between. Only the main process draws.

    Args:
        interval: The first sample of every ``interval``-th batch is drawn, in
            validation and test.
        modules: Names of modules whose maps are drawn, such as ``['neck']``; None =
            all that show some.
        levels: Which levels are drawn, by number; None = all.
        draw: Whether to draw at all.

    Raises:
        ValueError: If ``interval`` is below 1.
    """

    # After the optimiser, the EMA and the checkpoints.
    priority = 'LOW'

    def __init__(
        self,
        interval: int = 50,
        modules: Sequence[str] | None = None,
        levels: Sequence[int] | None = None,
        draw: bool = True,
    ) -> None:
        if interval < 1:
            raise ValueError(
                f'interval is {interval}, expected 1 (every batch) or more: change '
                'interval of AttentionMapHook in custom_hooks.'
            )
        self.interval = interval
        self.modules = None if modules is None else tuple(modules)
        self.levels = None if levels is None else tuple(levels)
        self.draw = draw

    def after_val_iter(
        self,
        runner: Any,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Sequence[SegDataSample] | None = None,
    ) -> None:
        """Draw the first sample of every ``interval``-th batch."""
        self._add(runner, 'val', batch_idx, data_batch, runner.iter)

    def after_test_iter(
        self,
        runner: Any,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Sequence[SegDataSample] | None = None,
    ) -> None:
        """Draw the first sample of every ``interval``-th batch."""
        self._add(runner, 'test', batch_idx, data_batch, batch_idx)

    def _add(
        self, runner: Any, mode: str, batch_idx: int, data_batch: Any, step: int
    ) -> None:
        if not self.draw or batch_idx % self.interval or not is_main_process():
            return
        visualizer = Visualizer.get_current_instance()
        if not isinstance(visualizer, XModalVisualizer):
            raise TypeError(
                f'The visualizer is a {type(visualizer).__name__}, which draws no '
                "panels. Set visualizer=dict(type='mmseg_xmodal.XModalVisualizer', "
                "vis_backends=vis_backends, name='visualizer') in the config."
            )
        preprocessor = find_preprocessor(runner.model)
        network = _innermost(runner.model)
        stack, meta = plainest_view(data_batch, 0)
        maps = self._chosen(network, preprocessor, stack, meta)
        size = tuple(meta['ori_shape'][:2])
        views = batch_views(data_batch, 0, preprocessor, size)
        tiles = [modality_tile(name, view) for name, view in views.items()]
        tiles += [_tile(shown, meta, size) for shown in maps]
        panel = compose(tiles, (), visualizer.tile_width, visualizer.max_columns)
        kept = getattr(preprocessor, 'kept_modalities', None)
        subset = f'{"+".join(sorted(kept))}_' if kept is not None else ''
        stem = Path(meta.get('img_path') or 'array').stem
        visualizer.add_image(f'{mode}_maps_{subset}{stem}', panel, step)

    def _chosen(
        self,
        network: nn.Module,
        preprocessor: nn.Module,
        stack: Tensor,
        meta: Mapping[str, Any],
    ) -> list[ShownMap]:
        """The maps of one sample (1, h, w), with the names of the streams."""
        found = sample_maps(network, preprocessor, stack, meta)
        maps = []
        for name, shown in found.items():
            if self.modules is None or name in self.modules:
                maps += [m for m in shown if self._has_level(m.title)]
        if not maps:
            raise ValueError(
                f'AttentionMapHook(modules={self.modules}, levels={self.levels}) finds '
                f'nothing to draw; maps are shown by the modules {sorted(found)}. '
                'Change the hook, or add a neck such as mmseg_xmodal.AdaptiveGateNeck.'
            )
        return maps

    def _has_level(self, title: str) -> bool:
        return self.levels is None or any(
            title.startswith(f'level {level}:') for level in self.levels
        )


@torch.no_grad()
def sample_maps(
    network: nn.Module,
    preprocessor: nn.Module,
    stack: Tensor,
    meta: Mapping[str, Any],
) -> dict[str, list[ShownMap]]:
    """Run a segmentor over one picture and collect what its modules show.

    Args:
        network: The segmentor.
        preprocessor: Its preprocessor.
        stack: What the data loader gave for the sample.
        meta: The metainfo of the sample; gets the size of the padded picture as
            ``pad_shape`` if the preprocessor sets it.

    Returns:
        Name of each module to its maps, without the padding; streams are named.

    Shape:
        - stack: (C, H, W)
        - maps: (1, h, w)
    """
    sample = SegDataSample(metainfo=dict(meta))
    data = preprocessor(dict(inputs=[stack], data_samples=[sample]), False)
    was_training = network.training
    network.eval()
    try:
        with watch(network) as found:
            network(data['inputs'], data['data_samples'], mode='tensor')
    finally:
        network.train(was_training)
    padded = data['inputs'].shape[-2:]
    share = [real / full for real, full in zip(stack.shape[-2:], padded, strict=True)]
    names = _stream_names(network)
    return {
        module: [
            dataclasses.replace(
                shown,
                title=_name(shown.title, names),
                values=_unpadded(shown.values, share),
            )
            for shown in maps
        ]
        for module, maps in found.items()
    }


def _unpadded(values: Tensor, share: Sequence[float]) -> Tensor:
    """Cells that see the picture; padding is below and to the right."""
    height, width = (
        math.ceil(side * part - 1e-6)
        for side, part in zip(values.shape[-2:], share, strict=True)
    )
    return values[..., : max(height, 1), : max(width, 1)]


def _tile(shown: ShownMap, meta: Mapping[str, Any], size: tuple[int, int]) -> Tile:
    values = shown.values[0].float().cpu().numpy()
    if meta.get('flip'):
        axes = dict(horizontal=(1,), vertical=(0,), diagonal=(0, 1))
        values = np.flip(values, axes[meta['flip_direction']])
    return map_tile(shown.title, values, size, shown.limits)


def _innermost(model: nn.Module) -> nn.Module:
    """The segmentor inside wrappers of TTA and distributed training."""
    while isinstance(inner := getattr(model, 'module', None), nn.Module):
        model = inner
    if not any(isinstance(module, MapProbe) for module in model.modules()):
        raise ValueError(
            f'{type(model).__name__} has no module that shows attention or gate maps. '
            "Set model=dict(neck=dict(type='mmseg_xmodal.AdaptiveGateNeck', ...)) or "
            'another attention neck, or take AttentionMapHook out of custom_hooks.'
        )
    return model


def _stream_names(network: nn.Module) -> tuple[str, ...]:
    """Names of the backbone's streams, as far as it has any."""
    reader = getattr(getattr(network, 'backbone', None), 'input', None)
    return tuple(getattr(reader, 'names', ()))


def _name(title: str, names: Sequence[str]) -> str:
    """Put the names of the streams into a title."""
    for i, name in enumerate(names):
        title = title.replace(f'{{{i}}}', name)
    return title.replace('{', 'stream ').replace('}', '')
