"""The inferencer for several modalities."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmcv.transforms import Compose
from mmengine import Config
from mmengine.registry import DATASETS
from mmengine.runner.checkpoint import _load_checkpoint_to_model
from mmseg.apis import MMSegInferencer
from mmseg.models import BaseSegmentor
from mmseg.structures import SegDataSample
from rich.progress import track

from mmseg_xmodal.engine.hooks.visualization import batch_views
from mmseg_xmodal.registry import INFERENCERS
from mmseg_xmodal.structures import DomainOntology
from mmseg_xmodal.visualization import (
    ModalityView,
    XModalVisualizer,
    default_palette,
    save_panel,
)

from .inference import SampleInput, build_pipeline, layout_of_model, sample_info


@INFERENCERS.register_module()
class XModalInferencer(MMSegInferencer):
    """Segments samples of several modalities, from a config and a checkpoint.

    It differs from mmseg's ``MMSegInferencer`` in that a sample is a dict, that batches
    are finished one by one (a long list needs no more memory than a short one), and
    that a list always gives lists.

    Args:
        model: Config file or config.
        weights: Checkpoint. Without one the weights are random, with a warning.
        classes: Class names. Default to those in the checkpoint, then in the config.
        palette: RGB colour of each class, likewise.
        device: Such as ``'cpu'``; defaults to what the machine has.
        scope: Default scope of the config.
        show_progress: Whether to draw a progress bar.

    Raises:
        TypeError: If the model has no modalities.
        ValueError: If the config has no ``test_pipeline`` at top level.

    Example:
        >>> inferencer = XModalInferencer('cmx.py', 'cmx.pth', device='cpu')
        >>> inferencer(dict(rgb='a.png', depth='a_depth.png'), out_dir='out')
    """

    def __init__(
        self,
        model: str | dict | Config,
        weights: str | None = None,
        classes: Sequence[str] | None = None,
        palette: Sequence[Sequence[int]] | None = None,
        device: str | None = None,
        scope: str = 'mmseg',
        show_progress: bool = True,
    ) -> None:
        super().__init__(model=model, weights=weights, device=device, scope=scope)
        self.show_progress = show_progress
        meta = dict(self.model.dataset_meta)
        if classes is not None:
            meta = dict(classes=classes, palette=default_palette(len(classes)))
        if palette is not None:
            meta['palette'] = palette
        self.model.dataset_meta = meta
        self.visualizer.dataset_meta = meta

    def __call__(
        self,
        inputs: SampleInput | Sequence[SampleInput],
        return_datasamples: bool = False,
        batch_size: int = 1,
        return_vis: bool = False,
        show: bool = False,
        wait_time: float = 0,
        out_dir: str = '',
        img_out_dir: str = 'vis',
        pred_out_dir: str = 'pred',
    ) -> dict[str, Any]:
        """Segment samples; write panels and label maps into ``out_dir``.

        Args:
            inputs: A dict from modality to path or array, or a list of such dicts; see
                :func:`mmseg_xmodal.apis.inference_xmodal`.
            return_datasamples: Return data samples instead of label maps.
            batch_size: Samples per forward pass.
            return_vis: Return the panels, too.
            show: Open a window for each panel.
            wait_time: Seconds it stays; 0 waits for a key.
            out_dir: Folder for the results; empty writes none.
            img_out_dir: Folder of the panels inside it, empty for none.
            pred_out_dir: Folder of the label maps (png) inside it, empty for none.

        Returns:
            ``predictions`` and ``visualization`` (empty without ``return_vis``): lists
            for a list, for a dict the prediction and the panel themselves.

        Shape:
            - predictions: (H, W), integer class ids, in the size of the files.
            - visualization: (h, w, 3), uint8, RGB.
        """
        many = isinstance(inputs, list | tuple)
        samples: list[Any] = list(inputs) if many else [inputs]
        panels = Path(out_dir, img_out_dir) if out_dir and img_out_dir else None
        labels = Path(out_dir, pred_out_dir) if out_dir and pred_out_dir else None
        predictions: list[Any] = []
        visualization: list[np.ndarray] = []
        batches = self.preprocess(samples, batch_size)
        if self.show_progress:
            total = math.ceil(len(samples) / batch_size)
            batches = track(batches, description='Inference', total=total)  # type: ignore[assignment]
        for batch in batches:
            outputs = self.forward(batch)
            names = [
                f'{len(predictions) + i:06d}{_stem(output)}'
                for i, output in enumerate(outputs)
            ]
            if panels or show or return_vis:
                drawn = self.visualize(batch, outputs, names, panels, show, wait_time)
                visualization += drawn if return_vis else []
            predictions += self.postprocess(outputs, names, labels, return_datasamples)
        if not many:
            return dict(
                predictions=predictions[0],
                visualization=visualization[0] if visualization else [],
            )
        return dict(predictions=predictions, visualization=visualization)

    def preprocess(
        self, inputs: Sequence[SampleInput], batch_size: int = 1
    ) -> Iterator[dict]:
        """Load samples batch by batch; wrong ones are refused before the first.

        Args:
            inputs: One dict per sample.
            batch_size: Samples per batch.
        """
        infos = [sample_info(sample, self.layout) for sample in inputs]
        chunks = self._get_chunk_data(map(self.pipeline, infos), batch_size)
        return map(self.collate_fn, chunks)

    def visualize(
        self,
        batch: Mapping[str, Any],
        preds: Sequence[SegDataSample],
        names: Sequence[str],
        folder: Path | None = None,
        show: bool = False,
        wait_time: float = 0,
    ) -> list[np.ndarray]:
        """Draw one panel per sample.

        Args:
            batch: What the model got.
            preds: What it gave.
            names: File names without suffix.
            folder: Where to write, None for nowhere.
            show: Open a window for each.
            wait_time: Seconds it stays.
        """
        panels = []
        for i, (pred, name) in enumerate(zip(preds, names, strict=True)):
            views: dict[str, ModalityView] = batch_views(
                batch, i, self.model.data_preprocessor, pred.metainfo['ori_shape']
            )
            panel = self.visualizer.draw_panel(views, pred)
            if folder is not None:
                save_panel(folder / f'{name}.png', panel)
            if show:
                self.visualizer.show(panel, win_name=name, wait_time=wait_time)
            panels.append(panel)
        return panels

    def postprocess(
        self,
        preds: Sequence[SegDataSample],
        names: Sequence[str],
        folder: Path | None = None,
        return_datasamples: bool = False,
    ) -> list[Any]:
        """Turn data samples into label maps and write them.

        Args:
            preds: What the model gave.
            names: File names without suffix.
            folder: Where to write label maps as png, None for nowhere.
            return_datasamples: Return the data samples instead.
        """
        results: list[Any] = []
        for pred, name in zip(preds, names, strict=True):
            data = pred.pred_sem_seg.data.cpu().numpy()
            labels = data.reshape(data.shape[-2:]).astype(np.int64)
            if folder is not None:
                _write_labels(folder / f'{name}.png', labels)
            results.append(pred if return_datasamples else labels)
        return results

    def _init_pipeline(self, cfg: Config) -> Compose:
        """Build the test pipeline without labels, and take the model's modalities."""
        self.layout = layout_of_model(self.model)
        return build_pipeline(cfg)

    def _init_visualizer(self, cfg: Config) -> XModalVisualizer:
        """Build our visualizer, without back ends: panels go to ``out_dir``."""
        options = copy.deepcopy(dict(cfg.get('visualizer') or {}))
        if not str(options.get('type')).endswith('XModalVisualizer'):
            options = {}
        for key in ('type', 'vis_backends', 'save_dir'):
            options.pop(key, None)
        # Visualizers are kept by name: that of a running training stays as it is.
        options['name'] = f'{options.get("name", "visualizer")}-{id(self)}'
        return XModalVisualizer(**options)

    def _load_weights_to_model(
        self, model: BaseSegmentor, checkpoint: dict | None, cfg: Config | None
    ) -> None:
        """Load weights; classes come from the checkpoint, else from the config."""
        meta = (checkpoint or {}).get('meta', {}).get('dataset_meta') or {}
        if checkpoint is None:
            warnings.warn(
                'No weights are given: the predictions come from random weights.',
                stacklevel=2,
            )
        else:
            _load_checkpoint_to_model(model, checkpoint)
        classes, palette = meta.get('classes'), meta.get('palette')
        if not classes:
            classes, palette = _configured_classes(cfg)
        if not classes:
            head = getattr(model, 'decode_head', None)
            count = getattr(head, 'num_classes', 0)
            classes = [f'class {i}' for i in range(count)]
        if not palette or len(palette) != len(classes):
            palette = default_palette(len(classes))
        model.dataset_meta = dict(classes=classes, palette=palette)


def _configured_classes(
    cfg: Config | None,
) -> tuple[Sequence[str] | None, Sequence[Sequence[int]] | None]:
    """Classes and palette of the test set, looking into data set wrappers.

    Raises:
        ValueError: If its ``ontology`` is none that is known.
    """
    dataset = ((cfg or {}).get('test_dataloader') or {}).get('dataset')
    while dataset is not None and ('dataset' in dataset or 'datasets' in dataset):
        dataset = dataset.get('dataset') or dataset['datasets'][0]
    if dataset is None:
        return None, None
    with DATASETS.switch_scope_and_registry(None) as registry:
        known = getattr(registry.get(dataset['type']), 'METAINFO', {})
    meta = {**known, **(dataset.get('metainfo') or {})}
    if dataset.get('ontology') is not None:
        meta |= DomainOntology.build(dataset['ontology']).metainfo
    return meta.get('classes'), meta.get('palette')


def _stem(sample: SegDataSample) -> str:
    """``_name`` of the first file of a sample, empty where it came from arrays."""
    path = sample.metainfo.get('img_path')
    return f'_{Path(path).stem}' if path else ''


def _write_labels(path: Path, labels: np.ndarray) -> None:
    """Write class ids as a grey png, with 16 bits where 8 are too few."""
    deep = labels.max(initial=0) > 255
    _, data = cv2.imencode('.png', labels.astype(np.uint16 if deep else np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.tobytes())
