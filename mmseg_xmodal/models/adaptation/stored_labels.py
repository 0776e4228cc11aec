"""Learn from pseudo-labels that were written before the training.

Paper: FDA, Yang and Soatto, CVPR 2020, https://arxiv.org/abs/2004.05498, whose last
rounds train so. The official code has no licence and was not opened; written from a
description. Clean room, nothing copied.
"""

from __future__ import annotations

from typing import Any

from mmengine.structures import PixelData
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.structures import SegDataSample
from torch import nn

from mmseg_xmodal.registry import MODELS
from mmseg_xmodal.structures.stored_labels import KEY

from .base import AdaptationStep, AdaptationTerm, Losses
from .step import check_one_map, padded_field, prediction_heads

_IGNORED = 255


@MODELS.register_module()
class StoredPseudoLabels(AdaptationTerm):
    """The student's own losses on the target, with labels from files.

    ``LoadPseudoLabels`` reads them; ``PseudoLabelWriter`` writes them. It shares the
    pass over the target with ``EntropyMinimization``. Padding, and what
    ``gt_pseudo_valid`` marks, do not teach.

    Args:
        weight: Factor of the losses.
        name: See :class:`AdaptationTerm`.

    Raises:
        ValueError: If the student has a cascade of heads, a head of masks, or one
            whose loss is not that of one map of logits; in training, if a target has no
            labels.
    """

    NAME = 'stored'
    GRAPHS = ('target',)

    def attach(self, student: Any) -> None:
        """Refuse a student without one map of logits, or with further losses."""
        who = type(self).__name__
        check_one_map(student, who)
        _check_losses(student, who)

    def forward(self, step: AdaptationStep) -> Losses:
        """Losses of every head on the target images of this step."""
        samples = self._labelled(step)
        losses: Losses = {}
        heads = prediction_heads(step.student)
        for i, (head, logits) in enumerate(zip(heads, step.target_logits, strict=True)):
            part = f'aux_{i - 1}' if i else 'decode'
            found = head.loss_by_feat(logits, samples)
            losses.update({f'{part}.{key}': value for key, value in found.items()})
        return losses

    def _labelled(self, step: AdaptationStep) -> list[SegDataSample]:
        size = step.target.inputs.shape[-2:]
        valid = step.valid_target()
        labelled = []
        for i, sample in enumerate(step.target.samples):
            if KEY not in sample:
                raise ValueError(
                    f'StoredPseudoLabels: the target {sample.get("img_path")!r} has no '
                    f"{KEY}. Put dict(type='mmseg_xmodal.LoadPseudoLabels', ...) into "
                    'the pipeline of the target after the image is loaded, and '
                    f'raster_keys=[{KEY!r}] into PackXModalInputs.'
                )
            label = padded_field(sample, KEY, size, _IGNORED).long()
            if valid is not None:
                label = label.masked_fill(valid[i] != 1, _IGNORED)
            own = SegDataSample(metainfo=sample.metainfo)
            own.gt_sem_seg = PixelData(data=label.to(step.target.inputs.device))
            labelled.append(own)
        return labelled


def _check_losses(student: Any, who: str) -> None:
    """Raise where a head's loss is more than ``loss_by_feat`` of what it predicts."""
    for i, head in enumerate(prediction_heads(student)):
        if getattr(type(head), 'loss', None) is BaseDecodeHead.loss:
            continue
        several = isinstance(getattr(student, 'auxiliary_head', None), nn.ModuleList)
        place = f'auxiliary_head[{i - 1}]' if several else 'auxiliary_head'
        raise ValueError(
            f'{who} takes the loss of the map that a head predicts, but '
            f'{place if i else "decode_head"} of the student is a '
            f'{type(head).__name__}, which computes its loss in a way of its own, of '
            'more than this map; expected the loss of BaseDecodeHead. Take a head '
            'such as FCNHead or SegformerHead, or ClassMixSelfTraining, which runs '
            'the whole student.'
        )
