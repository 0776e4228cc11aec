"""Test-time augmentation that averages probabilities, each made exactly once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from mmengine.model import BaseTTAModel
from mmengine.structures import BaseDataElement, InstanceData, LabelData, PixelData
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from mmseg_xmodal.registry import MODELS

from ..decode_heads.classification_head import ClassificationHead
from ..decode_heads.seg_task_head import SegTaskHead
from ..decode_heads.task_head import DenseTaskHead, TaskHead
from ..layers.box_merge import merge_boxes
from ..layers.logit_probabilities import (
    class_probabilities,
    gives_scores,
)


@MODELS.register_module()
class XModalTTAModel(BaseTTAModel):
    """Average the class probabilities of all views.

    The result is a new sample: the metainfo and the ground truth (``gt_*``,
    ``ignored_*``) of the first view that is not flipped, ``pred_sem_seg``, and
    ``seg_logits``. The latter holds what the segmentor itself would store: for several
    classes the logarithm of the mean probability (its softmax is the mean again), for
    one channel, and for heads that give scores (Mask2Former), the mean probability.

    Other tasks of a :class:`MultiTaskEncoderDecoder` are merged as well: maps of
    numbers by their mean (normals are made unit vectors again), further segmentations
    and image labels by their mean probability, boxes by non-maximum suppression over
    all views. Whatever else a view has is left out, since that of a single view would
    pass for merged.

    Set it in the config, ``test.py --tta`` does the rest::

        tta_model = dict(type='mmseg_xmodal.XModalTTAModel')

    Args:
        module: The segmentor; the runner fills it in.
        data_preprocessor: Taken where the config of the segmentor has none.
    """

    def __init__(
        self,
        module: dict | nn.Module,
        data_preprocessor: dict | nn.Module | None = None,
    ) -> None:
        # mmengine would let what stands at the top level of the config replace the
        # segmentor's own, which a leaf config has completed.
        if isinstance(module, Mapping) and module.get('data_preprocessor'):
            data_preprocessor = None
        super().__init__(module, data_preprocessor)

    def merge_preds(
        self, data_samples_list: Sequence[Sequence[SegDataSample]]
    ) -> list[SegDataSample]:
        """Merge the views of every image.

        Args:
            data_samples_list: One sequence of predicted views per image.

        Raises:
            ValueError: If the views of an image differ in shape.
        """
        return [self._merge(views) for views in data_samples_list]

    def _merge(self, views: Sequence[SegDataSample]) -> SegDataSample:
        base = next((v for v in views if not v.metainfo.get('flip')), views[0])
        merged = type(base)(metainfo=base.metainfo)
        # The prediction is flipped back, whatever view the metainfo comes from.
        merged.set_metainfo(dict(flip=False, flip_direction=None))
        merged.set_data(
            {key: v for key, v in base.items() if key.startswith(('gt_', 'ignored_'))}
        )
        if 'seg_logits' in base:
            self._merge_seg(views, merged)
        for head in getattr(self.module, 'task_heads', {}).values():
            _merge_task(head, views, merged)
        return merged

    def _merge_seg(self, views: Sequence[SegDataSample], merged: SegDataSample) -> None:
        # A model of adaptation predicts by its student or its teacher.
        scores = gives_scores(getattr(self.module, 'predicting', self.module))
        mean = self._mean_probability(views, scores)
        if mean.shape[0] > 1:
            label = mean.argmax(dim=0, keepdim=True)
            stored = mean
            if not scores:
                stored = mean.clamp(min=torch.finfo(mean.dtype).tiny).log()
        else:
            label = (mean > self.module.decode_head.threshold).to(mean)
            stored = mean
        merged.set_data(
            dict(pred_sem_seg=PixelData(data=label), seg_logits=PixelData(data=stored))
        )

    @staticmethod
    def _mean_probability(views: Sequence[SegDataSample], scores: bool) -> Tensor:
        shapes = {tuple(v.seg_logits.data.shape) for v in views}
        if len(shapes) > 1:
            raise ValueError(
                f'The views of {views[0].metainfo.get("img_path")} predict maps of the '
                f'shapes {sorted(shapes)}, expected one. Each view must keep '
                '`ori_shape`: load before TestTimeAug in tta_pipeline, resize inside.'
            )
        total = torch.zeros_like(views[0].seg_logits.data)
        for view in views:
            total += class_probabilities(view.seg_logits.data, scores)
        return total / len(views)


def _merge_task(
    head: TaskHead, views: Sequence[SegDataSample], merged: SegDataSample
) -> None:
    """Put the merged prediction of a task into ``merged``, if it can be merged."""
    field = 'pred_' + head.target.removeprefix('gt_')
    found = [view.get(field) for view in views]
    if isinstance(head, SegTaskHead):
        fields = head.prediction_of(_mean(found, 'scores'))
    elif isinstance(head, DenseTaskHead):
        # Every view is in the coordinates of the original image: nothing to correct,
        # but what a head predicts has a form, such as unit vectors.
        meta = dict(merged.metainfo, flip=False, scale_factor=(1.0, 1.0))
        fields = head.finish(_mean(found, 'data'), meta)
    elif isinstance(head, ClassificationHead):
        score = _mean(found, 'score')
        if head.multi_label:
            label = (score >= head.threshold).long()
        else:
            label = score.argmax(dim=0, keepdim=True)
        fields = {field: LabelData(score=score, label=label)}
    elif all(isinstance(view, InstanceData) and 'scores' in view for view in found):
        fields = {field: merge_boxes(found)}
    else:
        return
    merged.set_data(fields)


def _mean(found: Sequence[BaseDataElement], name: str) -> Tensor:
    return torch.stack([element.get(name) for element in found]).mean(dim=0)
