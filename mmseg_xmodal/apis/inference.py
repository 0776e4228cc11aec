"""Inference on files or arrays of several modalities."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmcv.transforms import Compose, LoadAnnotations
from mmengine import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import TRANSFORMS
from mmseg.apis import init_model
from mmseg.models import BaseSegmentor
from mmseg.structures import SegDataSample

from mmseg_xmodal.structures import ModalityLayout

__all__ = ['build_pipeline', 'inference_xmodal', 'init_model', 'sample_info']

ModalityInput = str | os.PathLike | np.ndarray | None
SampleInput = Mapping[str, ModalityInput]


def inference_xmodal(
    model: BaseSegmentor, inputs: SampleInput | Sequence[SampleInput]
) -> SegDataSample | list[SegDataSample]:
    """Segment samples of several modalities.

    Args:
        model: From :func:`init_model`; its config has ``test_pipeline`` at top level.
        inputs: One sample, or a list of them. A sample is a dict from modality to a
            file path or to an array of what such a file stores (before scale and
            offset; colour in BGR, as OpenCV reads it). A modality with
            ``may_be_missing=True`` may be left out or None.

    Returns:
        One data sample for a dict, a list for a list. ``pred_sem_seg`` has the size of
        the files.

    Shape:
        - arrays: (H, W) or (H, W, channels).

    Raises:
        TypeError: If a sample is not a dict or the model has no modalities.
        ValueError: If a sample has unknown or missing modalities.

    Example:
        >>> model = init_model('cmx.py', 'cmx.pth', device='cpu')
        >>> inference_xmodal(model, dict(rgb='a.png', depth='a_depth.png'))
    """
    many = isinstance(inputs, list | tuple)
    samples = list(inputs) if many else [inputs]
    layout = layout_of_model(model)
    infos = [sample_info(sample, layout) for sample in samples]
    pipeline = build_pipeline(model.cfg)
    results: list[SegDataSample] = []
    with torch.no_grad():
        # One at a time: sizes may differ, and memory stays that of one sample.
        for info in infos:
            results += model.test_step(pseudo_collate([pipeline(info)]))
    return results if many else results[0]


def layout_of_model(model: BaseSegmentor) -> ModalityLayout:
    """Return the layout of a model's preprocessor.

    Raises:
        TypeError: If it has none.
    """
    preprocessor = getattr(model, 'data_preprocessor', None)
    layout = getattr(preprocessor, 'layout', None)
    if not isinstance(layout, ModalityLayout):
        raise TypeError(
            f'The data_preprocessor is a {type(preprocessor).__name__}, which has no '
            'modalities. For a model of one image use mmseg.apis.inference_model or '
            'MMSegInferencer, for several modalities set data_preprocessor=dict('
            "type='mmseg_xmodal.ModalityPreprocessor', modalities=modalities)."
        )
    return layout


def build_pipeline(cfg: Config) -> Compose:
    """Build ``test_pipeline`` of a config without the loading of labels.

    Raises:
        ValueError: If the config has no ``test_pipeline`` at top level.
    """
    transforms = cfg.get('test_pipeline')
    if not transforms:
        raise ValueError(
            f"The config has the keys {sorted(cfg)}, but no 'test_pipeline'. State it "
            'at top level and refer to it in test_dataloader.dataset.pipeline.'
        )
    return Compose([t for t in transforms if not _loads_labels(t)])


def _loads_labels(transform: Any) -> bool:
    """Whether a config, or a transform itself, reads the labels and nothing else."""
    kind = transform['type'] if isinstance(transform, Mapping) else type(transform)
    if isinstance(kind, str):
        with TRANSFORMS.switch_scope_and_registry(None) as registry:
            kind = registry.get(kind)
    # An unknown name is None here; building it says so.
    return isinstance(kind, type) and issubclass(kind, LoadAnnotations)


def sample_info(sample: Any, layout: ModalityLayout) -> dict[str, Any]:
    """What the data set would hand to the pipeline for one sample of the user.

    Args:
        sample: Modality to path or array; see :func:`inference_xmodal`.
        layout: The model's modalities.

    Returns:
        ``img_path`` (None if there is no file), ``modality_paths`` and
        ``modality_layout``.

    Raises:
        TypeError: If the sample is no dict, or a value neither path nor array.
        ValueError: If there are unknown modalities, or too few.
    """
    example = ', '.join(f"{name}='path/of/{name}'" for name in layout.names)
    if not isinstance(sample, Mapping):
        raise TypeError(
            f'A sample is a {type(sample).__name__}, expected a dict from modality to '
            f'path or array: dict({example}).'
        )
    given = {name: value for name, value in sample.items() if value is not None}
    unknown = [name for name in given if name not in layout]
    optional = {m.name for m in layout if m.may_be_missing}
    absent = [n for n in layout.names if n not in given and n not in optional]
    if unknown or absent or not given:
        raise ValueError(
            f'A sample has the modalities {list(given)}, but the model takes '
            f'{list(layout.names)} (may be missing: {sorted(optional)}). Unknown: '
            f'{unknown}; missing: {absent}. Give dict({example}).'
        )
    wrong = [
        n for n, v in given.items() if not isinstance(v, str | os.PathLike | np.ndarray)
    ]
    if wrong:
        raise TypeError(
            f'Modality {wrong[0]!r} is a {type(given[wrong[0]]).__name__}, expected a '
            'path or a numpy array.'
        )
    values = {n: v if _is_array(v) else os.fspath(v) for n, v in given.items()}
    files = [v for v in values.values() if not _is_array(v)]
    return dict(
        img_path=files[0] if files else None,
        modality_paths={name: values.get(name) for name in layout.names},
        modality_layout=layout,
    )


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray)
