"""The visualizer that shows every modality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.dist import master_only
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from mmseg.visualization import SegLocalVisualizer
from torch import Tensor

from mmseg_xmodal.registry import VISUALIZERS

from .colours import (
    CORRECT,
    WRONG,
    Colour,
    colour_labels,
    colour_scalar,
    default_palette,
    error_map,
    stretch_channels,
)
from .panels import Tile, compose, save_panel
from .task_tiles import TaskPanels
from .views import ModalityView, view_from_image


@VISUALIZERS.register_module()
class XModalVisualizer(SegLocalVisualizer):
    """Draws one panel per sample: every modality, truth, prediction, error map.

    Truth and predictions of further tasks, where the sample has some, get their tiles
    too: see :class:`mmseg_xmodal.visualization.task_tiles.TaskPanels`.

    Takes the place of mmseg's ``SegLocalVisualizer`` in any config. The panel goes to
    all ``vis_backends`` through ``add_image``.

    Args:
        name: Name of the instance.
        image: Accepted as in the base class.
        vis_backends: Configs of the storage back ends.
        save_dir: Folder of the storage back ends; stock ``--show-dir`` sets it.
        classes: Class names; the runner sets those of the data set.
        palette: RGB colour of each class. Made from the class number where absent.
        dataset_name: Data set of mmseg whose classes and palette are taken.
        alpha: Opacity of label colours over the first colour modality, in (0, 1].
            Below 1 the colours no longer equal the legend's.
        tile_width: Smallest and largest width of one picture in pixels.
        max_columns: Pictures in one row.
        kwargs: Further arguments of the base class.
    """

    def __init__(
        self,
        name: str = 'visualizer',
        image: np.ndarray | None = None,
        vis_backends: list[dict] | None = None,
        save_dir: str | None = None,
        classes: Sequence[str] | None = None,
        palette: Sequence[Sequence[int]] | None = None,
        dataset_name: str | None = None,
        alpha: float = 1.0,
        tile_width: tuple[int, int] = (240, 640),
        max_columns: int = 5,
        **kwargs: Any,
    ) -> None:
        # The base class hands classes and palette on in swapped order: not through it.
        super().__init__(
            name=name,
            image=image,
            vis_backends=vis_backends,
            save_dir=save_dir,
            alpha=alpha,
            **kwargs,
        )
        self.set_dataset_meta(classes, palette, dataset_name)
        self.tile_width = (int(tile_width[0]), int(tile_width[1]))
        self.max_columns = max_columns

    def set_dataset_meta(
        self,
        classes: Sequence[str] | None = None,
        palette: Sequence[Sequence[int]] | None = None,
        dataset_name: str | None = None,
    ) -> None:
        """Set class names and colours; see the base class.

        Args:
            classes: Class names. Without them and without ``dataset_name`` those of
                Cityscapes, as in the base class.
            palette: RGB colour of each class; made from the class number where only
                the names are given.
            dataset_name: Data set of mmseg whose classes and palette are taken.
        """
        if classes and not palette and dataset_name is None:
            palette = default_palette(len(classes))
        super().set_dataset_meta(classes, palette, dataset_name)

    @master_only
    def add_datasample(
        self,
        name: str,
        image: np.ndarray | Mapping[str, ModalityView],
        data_sample: SegDataSample | None = None,
        draw_gt: bool = True,
        draw_pred: bool = True,
        show: bool = False,
        wait_time: float = 0,
        out_file: str | None = None,
        step: int = 0,
        with_labels: bool | None = True,
        with_image: bool | None = False,
    ) -> None:
        """Draw the panel of one sample; show it, write it, or hand it to the back ends.

        Args:
            name: Name of the image in the back ends.
            image: The modalities by name, or one RGB image.
            data_sample: Holds ``gt_sem_seg`` and ``pred_sem_seg``, either may lack,
                and what :class:`TaskPanels` draws of further tasks.
            draw_gt: Whether to draw the truth.
            draw_pred: Whether to draw the prediction.
            show: Open a window; the back ends get nothing then.
            wait_time: Seconds the window stays; 0 waits for a key.
            out_file: Write here instead of to the back ends.
            step: Step under which the back ends file the panel.
            with_labels: Whether to draw the legend.
            with_image: Without effect, panels always show the images.

        Raises:
            ValueError: If truth and prediction differ in size, or there is nothing
                to draw.
        """
        panel = self.draw_panel(image, data_sample, draw_gt, draw_pred, with_labels)
        self.set_image(panel)
        if show:
            self.show(panel, win_name=name, wait_time=wait_time)
        if out_file is not None:
            save_panel(out_file, panel)
        elif not show:
            self.add_image(name, panel, step)

    def draw_panel(
        self,
        image: np.ndarray | Mapping[str, ModalityView],
        data_sample: SegDataSample | None = None,
        draw_gt: bool = True,
        draw_pred: bool = True,
        with_labels: bool | None = True,
    ) -> np.ndarray:
        """Return the panel of one sample; arguments as in :meth:`add_datasample`.

        Shape:
            - returns: (H, W, 3), uint8, RGB.
        """
        views = dict(image) if isinstance(image, Mapping) else {}
        if not isinstance(image, Mapping):
            views['image'] = view_from_image(image)
        truth = _labels(data_sample, 'gt_sem_seg') if draw_gt else None
        pred = _labels(data_sample, 'pred_sem_seg') if draw_pred else None
        if truth is not None and pred is not None and truth.shape != pred.shape:
            raise ValueError(
                f'The truth has the size {truth.shape}, the prediction {pred.shape} '
                '(height, width). In the test pipeline LoadAnnotations comes after '
                'Resize, so that the labels keep the original size.'
            )
        tasks = TaskPanels(data_sample, self.dataset_meta, draw_gt, draw_pred)
        labels = [m for m in (pred, truth) if m is not None]
        size = (labels or [v.valid for v in views.values()])[0].shape
        size = size if labels else tasks.size or size
        views = {key: view.resized(size) for key, view in views.items()}
        tiles = [modality_tile(key, view) for key, view in views.items()]
        further = tasks.tiles(size, _base(views, tiles))
        tiles += self._label_tiles(views, truth, pred, 'seg: ' if further else '')
        tiles += further
        legend = self._legend(tiles, truth, pred, tasks) if with_labels else []
        return compose(tiles, legend, self.tile_width, self.max_columns)

    def _class_meta(self) -> tuple[Sequence[str], Sequence[Sequence[int]]]:
        meta = self.dataset_meta or {}
        classes = meta.get('classes') or ()
        return classes, meta.get('palette') or default_palette(len(classes))

    def _label_tiles(
        self,
        views: Mapping[str, ModalityView],
        truth: np.ndarray | None,
        pred: np.ndarray | None,
        task: str,
    ) -> list[Tile]:
        _, palette = self._class_meta()
        base = next((v.values for v in views.values() if v.colour), None)
        tiles = []
        for caption, labels in (('truth', truth), ('prediction', pred)):
            if labels is not None:
                image, outside = colour_labels(labels, palette)
                if base is not None and self.alpha < 1:
                    mixed = base * (1 - self.alpha) + image * self.alpha
                    image = np.round(mixed).astype(np.uint8)
                tiles.append(Tile(image, task + caption, outside, smooth=False))
        if truth is not None and pred is not None:
            ignored = (truth < 0) | (truth >= len(palette))
            image, share = error_map(pred, truth, ignored)
            text = 'nothing labelled' if share is None else f'{share:.1%} wrong'
            tiles.append(Tile(image, f'{task}error: {text}', ignored, smooth=False))
        return tiles

    def _legend(
        self,
        tiles: Sequence[Tile],
        truth: np.ndarray | None,
        pred: np.ndarray | None,
        tasks: TaskPanels,
    ) -> list[tuple[str, Colour | None]]:
        """Names of the classes in sight, then of the marks."""
        classes, palette = self._class_meta()
        maps = [m for m in (truth, pred) if m is not None]
        ids = sorted({int(i) for m in maps for i in np.unique(m)})
        legend: list[tuple[str, Colour | None]] = []
        for i in ids:
            if 0 <= i < len(palette):
                r, g, b = (int(v) for v in palette[i])
                legend.append((classes[i], (r, g, b)))
        legend += tasks.legend
        if len(maps) == 2 or tasks.has_errors:
            legend += [('correct', CORRECT), ('wrong', WRONG)]
        if any(tile.marked is not None and tile.marked.any() for tile in tiles):
            legend.append(('no data or ignored', None))
        return legend


def _base(views: Mapping[str, ModalityView], tiles: Sequence[Tile]) -> np.ndarray:
    """What boxes are drawn over: the first colour modality, else the first one."""
    colour = [view.colour and not view.withheld for view in views.values()]
    return tiles[colour.index(True) if any(colour) else 0].image


def _labels(data_sample: SegDataSample | None, key: str) -> np.ndarray | None:
    """The (H, W) label map under ``key``, None where there is none."""
    if data_sample is None or key not in data_sample:
        return None
    field: PixelData = getattr(data_sample, key)
    data = field.data
    array = data.detach().cpu().numpy() if isinstance(data, Tensor) else data
    return array.reshape(array.shape[-2:]).astype(np.int64)


def modality_tile(name: str, view: ModalityView) -> Tile:
    """The tile of one modality."""
    size = view.valid.shape
    if view.withheld or not view.valid.any():
        state = 'withheld' if view.withheld else 'missing'
        empty = np.zeros((*size, 3), np.uint8)
        marked = np.ones(size, bool)
        return Tile(empty, f'{name}: {state}', marked, note=state)
    share = 1 - view.valid.mean()
    invalid = f', {share:.1%} invalid' if share > 0 else ''
    channels = view.values.shape[2]
    if view.colour:
        image = np.round(np.clip(view.values, 0, 255)).astype(np.uint8)
        return Tile(image, name + invalid, ~view.valid)
    if channels >= 3:
        image = stretch_channels(view.values[..., :3], view.valid)
        which = f', channels 1-3 of {channels}' if channels > 3 else ''
        return Tile(image, f'{name}, false colour{which}{invalid}', ~view.valid)
    note = ', mean of 2 channels' if channels == 2 else ''
    image, limits = colour_scalar(view.values.mean(axis=2), view.valid)
    caption = f'{name}{note}{invalid}'
    return Tile(image, caption, ~view.valid, limits, view.unit)
