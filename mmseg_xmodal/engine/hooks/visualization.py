"""The hook that draws panels during validation and testing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.model import BaseDataPreprocessor
from mmengine.visualization import Visualizer
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from mmseg_xmodal.registry import HOOKS
from mmseg_xmodal.structures import ModalityLayout
from mmseg_xmodal.visualization import (
    ModalityView,
    XModalVisualizer,
    views_from_inputs,
)


@HOOKS.register_module()
class XModalVisualizationHook(Hook):
    """Hands every modality, truth and prediction to the :class:`XModalVisualizer`.

    Stands in ``default_hooks.visualization``, where stock ``test.py --show-dir DIR``
    and ``--show`` switch it on. The pictures come from what the pipeline has loaded,
    not from files: they show what the model got, and no RGB image is needed.

    Args:
        draw: Whether to draw at all; ``--show`` and ``--show-dir`` set it.
        interval: Validation: the first sample of every ``interval``-th batch is drawn,
            the same ones in each validation. Test: every ``interval``-th sample. The
            first one is always among them.
        show: Open a window instead of writing to the ``vis_backends``.
        wait_time: Seconds the window stays; 0 waits for a key.

    Raises:
        ValueError: If ``interval`` is below 1.
    """

    def __init__(
        self,
        draw: bool = False,
        interval: int = 50,
        show: bool = False,
        wait_time: float = 0.0,
    ) -> None:
        if interval < 1:
            raise ValueError(
                f'interval is {interval}, expected 1 (every sample) or more: change '
                'default_hooks.visualization.interval.'
            )
        self.draw = draw
        self.interval = interval
        self.show = show
        self.wait_time = wait_time
        self._seen = 0

    def after_val_iter(
        self,
        runner: Any,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Sequence[SegDataSample] | None = None,
    ) -> None:
        """Draw the first sample of every ``interval``-th batch, named after both."""
        if self.draw and outputs and batch_idx % self.interval == 0:
            # Samples of different folders may share a stem, and the step is the same.
            mode = f'val_{batch_idx}'
            self._add(runner, mode, data_batch, outputs, 0, runner.iter)

    def after_test_iter(
        self,
        runner: Any,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Sequence[SegDataSample] | None = None,
    ) -> None:
        """Draw every ``interval``-th sample."""
        if not self.draw:
            return
        if batch_idx == 0:  # a loop may pass over the test set several times
            self._seen = 0
        for i in range(len(outputs or ())):
            if self._seen % self.interval == 0:
                self._add(runner, 'test', data_batch, outputs or (), i, self._seen)
            self._seen += 1

    def _add(
        self,
        runner: Any,
        mode: str,
        data_batch: Any,
        outputs: Sequence[SegDataSample],
        index: int,
        step: int,
    ) -> None:
        """Draw sample ``index`` of the batch."""
        visualizer = Visualizer.get_current_instance()
        if not isinstance(visualizer, XModalVisualizer):
            raise TypeError(
                f'The visualizer is a {type(visualizer).__name__}, which draws one RGB '
                'image only. Set visualizer=dict(type='
                "'mmseg_xmodal.XModalVisualizer', vis_backends=vis_backends, "
                "name='visualizer') in the config."
            )
        preprocessor = find_preprocessor(runner.model)
        kept = getattr(preprocessor, 'kept_modalities', None)
        subset = f'{"+".join(sorted(kept))}_' if kept is not None else ''
        sample = outputs[index]
        stem = Path(sample.metainfo.get('img_path') or 'array').stem
        visualizer.add_datasample(
            f'{mode}_{subset}{stem}',
            batch_views(data_batch, index, preprocessor, sample.metainfo['ori_shape']),
            data_sample=sample,
            show=self.show,
            wait_time=self.wait_time,
            step=step,
        )


def find_preprocessor(model: nn.Module) -> BaseDataPreprocessor:
    """Return the preprocessor with the layout, looking through TTA and DDP wrappers.

    Args:
        model: The runner's model.

    Returns:
        The first preprocessor with a ``layout``, else the innermost one.
    """
    found: BaseDataPreprocessor | None = None
    inner: nn.Module | None = model
    while inner is not None:
        found = getattr(inner, 'data_preprocessor', found)
        if isinstance(getattr(found, 'layout', None), ModalityLayout):
            break
        inner = getattr(inner, 'module', None)
    if found is None:
        raise TypeError(
            f'{type(model).__name__} has no data_preprocessor, so nothing tells its '
            "modalities apart. Set data_preprocessor=dict(type='mmseg_xmodal."
            "ModalityPreprocessor', modalities=modalities) in the model's config."
        )
    return found


def batch_views(
    data_batch: Mapping[str, Any],
    index: int,
    preprocessor: BaseDataPreprocessor,
    size: tuple[int, int],
) -> dict[str, ModalityView]:
    """Pictures of all modalities of one sample, as the camera saw it.

    Args:
        data_batch: What the data loader gave: ``inputs`` and ``data_samples``, one
            entry per sample, or with TTA one list per view.
        index: Number of the sample.
        preprocessor: Its ``layout`` says what the channels are. Without one, three
            channels are a BGR image (an ordinary mmseg model).
        size: Original height and width.

    Raises:
        ValueError: If the channels fit neither.
    """
    stack, meta = plainest_view(data_batch, index)
    layout = getattr(preprocessor, 'layout', None)
    if isinstance(layout, ModalityLayout):
        kept, threshold = preprocessor.kept_modalities, preprocessor.validity_threshold
        views = views_from_inputs(stack, layout, kept, threshold)
    else:
        views = views_from_inputs(stack, None)
    if meta.get('flip'):
        direction = meta['flip_direction']
        views = {name: view.flipped(direction) for name, view in views.items()}
    return {name: view.resized(size) for name, view in views.items()}


def plainest_view(
    data_batch: Mapping[str, Any], index: int
) -> tuple[Tensor, Mapping[str, Any]]:
    """Stack and metainfo of a sample; with TTA of its largest unflipped view."""
    inputs, samples = data_batch['inputs'], data_batch['data_samples']
    if not isinstance(inputs[0], list | tuple):
        return inputs[index], samples[index].metainfo
    views = [
        (x[index], s[index].metainfo) for x, s in zip(inputs, samples, strict=True)
    ]
    return max(views, key=lambda v: (not v[1].get('flip'), v[0].shape[-1]))
