"""Any dense head of MMDetection as the detection head of a multi-task model.

MMDetection 3.3.0 (https://github.com/open-mmlab/mmdetection, Apache-2.0) is imported
when a head is built, not before. It needs mmcv's compiled ops. Data samples are turned
into its own: the names of boxes agree, but its heads also read ``batch_input_shape``
and ``border``, which mmseg does not set.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from mmseg.structures import SegDataSample
from torch import Tensor

from mmseg_xmodal.registry import MODELS

from ..layers.box_truth import check_instances
from ..layers.view import boxes_to_original, input_size, picture_size
from .task_head import TaskHead


def import_mmdet() -> Any:
    """Import ``mmdet.models``, which registers the heads, and return ``mmdet``.

    Raises:
        ImportError: If that fails, with the reason and what works.
    """
    try:
        importlib.import_module('mmdet.models')
        importlib.import_module('mmdet.structures')
        return importlib.import_module('mmdet')
    # Its version check of mmcv is an assert.
    except (ImportError, AssertionError) as error:
        raise ImportError(
            f'mmdet.models cannot be imported ({error}). Heads of mmdet need mmcv with '
            'compiled ops: they work on the OpenMMLab stack, with mmcv==2.1.0 compiled '
            'and `pip install mmdet==3.3.0`. On every stack there is '
            "type='mmseg_xmodal.CenterDetectionHead', which needs neither."
        ) from error


@MODELS.register_module()
class MMDetHead(TaskHead):
    """Wrap a dense head of mmdet, such as ``mmdet.FCOSHead``.

    A detector of mmdet hands ``train_cfg`` and ``test_cfg`` to its head; here they
    stand beside the head, or in it. Names without a prefix inside of these configs are
    mmdet's.

    Under DDP, losses of mmdet that count positives over all ranks (FCOS, ATSS and
    others) wait for every rank: a batch in which some ranks only have samples with
    boxes stops with an error.

    Args:
        head: Config of the head, as mmdet's detectors have it in ``bbox_head``.
        in_channels: Channels of the maps that are read. None = those that the neck, or
            the head, asks for.
        in_index: Which maps these are, the largest first.
        neck: Config of a neck of mmdet or mmseg between the pyramid and the head; most
            heads want equal channels at all levels, which an FPN gives.
        train_cfg: As in mmdet, for example with an assigner.
        test_cfg: As in mmdet: score threshold, NMS, boxes per image.
        target: Field of the truth; it predicts ``pred_...`` instead of ``gt_...``.
        init_cfg: As in mmengine.

    Shape:
        - input: maps (B, in_channels[i], h_i, w_i), the largest first.

    Raises:
        ImportError: If ``mmdet.models`` cannot be imported.
        ValueError: If there is no ``test_cfg``, or ``in_channels`` cannot be found out.
        TypeError: If the head has no ``loss`` and ``predict`` as dense heads do.
    """

    def __init__(
        self,
        head: Mapping[str, Any],
        in_channels: Sequence[int] | None = None,
        in_index: Sequence[int] = (0, 1, 2, 3),
        neck: Mapping[str, Any] | None = None,
        train_cfg: Mapping[str, Any] | None = None,
        test_cfg: Mapping[str, Any] | None = None,
        target: str = 'gt_instances',
        init_cfg: dict | list | None = None,
    ) -> None:
        import_mmdet()
        if in_channels is None:
            in_channels = _asked(head if neck is None else neck, len(in_index))
        super().__init__(in_channels, in_index, target, init_cfg)
        cfg = ConfigDict(head)
        for key, own in (('train_cfg', train_cfg), ('test_cfg', test_cfg)):
            cfg[key] = cfg.get(key) if own is None else ConfigDict(own)
        if cfg.test_cfg is None:
            raise ValueError(
                f'MMDetHead got no test_cfg for {cfg.get("type")!r}, expected the one '
                "of mmdet's detector config, such as dict(score_thr=0.05, "
                "nms=dict(type='nms', iou_threshold=0.5), max_per_img=100). Add it in "
                'task_heads.'
            )
        self.neck = None if neck is None else _build(neck)
        self.head = _build(cfg)
        if not all(hasattr(self.head, name) for name in ('loss', 'predict')):
            raise TypeError(
                f'{cfg.get("type")!r} has no loss and predict, expected a dense head '
                'of mmdet. Change head in task_heads.'
            )

    def forward(self, feats: Sequence[Tensor]) -> Any:
        """Raw output of the head, per level as mmdet has it."""
        return self.head(self._levels(feats))

    def _levels(self, feats: Sequence[Tensor]) -> tuple[Tensor, ...]:
        levels = tuple(self.select(feats))
        return levels if self.neck is None else tuple(self.neck(levels))

    def loss(
        self,
        feats: Sequence[Tensor],
        data_samples: Sequence[SegDataSample],
        train_cfg: Mapping[str, Any] | None = None,
    ) -> dict[str, Tensor]:
        """See :meth:`TaskHead.loss`; the terms of mmdet, levels added up."""
        classes = getattr(self.head, 'num_classes', None)
        for sample in data_samples:
            check_instances(sample, self.target, classes)
        samples = [self._to_mmdet(s.metainfo, s) for s in data_samples]
        losses = self.head.loss(self._levels(feats), samples)
        return {name: _one(value) for name, value in losses.items()}

    def predict(
        self,
        feats: Sequence[Tensor],
        batch_img_metas: Sequence[Mapping[str, Any]],
        test_cfg: Mapping[str, Any] | None = None,
    ) -> list[dict[str, InstanceData]]:
        """Boxes per image, in pixels of the original image.

        Returns:
            Per image a field of ``bboxes`` (N, 4) xyxy, ``scores`` (N,) and ``labels``
            (N,), the best first.
        """
        samples = [self._to_mmdet(meta) for meta in batch_img_metas]
        # Not rescaled there: mmdet knows nothing of flips.
        found = self.head.predict(self._levels(feats), samples, rescale=False)
        name = 'pred_' + self.target.removeprefix('gt_')
        results = []
        for instances, meta in zip(found, batch_img_metas, strict=True):
            boxes = boxes_to_original(instances.bboxes, meta)
            kept = (boxes[:, 2:] > boxes[:, :2]).all(1)
            own = InstanceData(
                bboxes=boxes[kept],
                scores=instances.scores[kept],
                labels=instances.labels[kept],
            )
            results.append({name: own})
        return results

    def _to_mmdet(
        self, meta: Mapping[str, Any], sample: SegDataSample | None = None
    ) -> Any:
        """A data sample of mmdet, with the truth if a sample is given.

        Raises:
            ValueError: If the metainfo has no size of the input.
        """
        size = input_size(meta)
        if size is None:
            raise ValueError(
                f'The metainfo of {meta.get("img_path")!r} has neither img_shape nor '
                f'pad_shape; it has {sorted(meta)}. Add img_shape to meta_keys of the '
                'pipeline.'
            )
        shapes: dict[str, Any] = dict(
            batch_input_shape=size,
            pad_shape=size,
            img_shape=picture_size(meta) or size,
            # What CenterNetHead takes off its boxes: padding is none of it here.
            border=(0, 0, 0, 0),
        )
        new = importlib.import_module('mmdet.structures').DetDataSample(
            metainfo={**meta, **shapes}
        )
        if sample is not None:
            truth = sample.get(self.target)
            new.gt_instances = InstanceData(
                bboxes=truth.bboxes.float().reshape(-1, 4), labels=truth.labels.long()
            )
            if 'ignored_instances' in sample:
                ignored = sample.get('ignored_instances').bboxes
                new.ignored_instances = InstanceData(
                    bboxes=ignored.float().reshape(-1, 4)
                )
        return new


def _asked(cfg: Mapping[str, Any], count: int) -> Sequence[int]:
    """Channels of the maps that the part asks for."""
    asked = cfg.get('in_channels')
    if asked is None:
        raise ValueError(
            f'{cfg.get("type")!r} has no in_channels, so MMDetHead cannot tell which '
            'maps it reads. Give in_channels of MMDetHead in task_heads.'
        )
    return [asked] * count if isinstance(asked, int) else asked


def _build(cfg: Mapping[str, Any]) -> Any:
    """Build with mmdet's names where the config says no other scope."""
    return MODELS.build(dict(_scope_='mmdet') | dict(cfg))


def _one(value: Any) -> Tensor:
    return sum(v.mean() for v in value) if isinstance(value, list | tuple) else value
