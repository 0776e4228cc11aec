"""Test-time augmentation that averages probabilities, each made exactly once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine.model import BaseTTAModel
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor

from mmseg_xmodal.registry import MODELS


def class_probabilities(seg_logits: Tensor) -> Tensor:
    """Turn the ``seg_logits`` of a predicted sample into probabilities.

    ``BaseSegmentor.postprocess_result`` of mmseg stores raw logits if there are two or
    more channels, but the sigmoid if there is one. The stock ``SegTTAModel`` applies
    the sigmoid to that again, so that no value falls below 0.5.

    Args:
        seg_logits: The data of ``sample.seg_logits``.

    Shape:
        - seg_logits: (C, H, W).
        - output: (C, H, W), in [0, 1].

    Raises:
        ValueError: If a one-channel map holds values outside [0, 1].
    """
    if seg_logits.shape[0] > 1:
        return seg_logits.softmax(dim=0)
    low, high = seg_logits.aminmax()
    if low < 0 or high > 1:
        raise ValueError(
            f'One-channel seg_logits range from {low:.3g} to {high:.3g}, expected '
            'probabilities in [0, 1]: mmseg applies the sigmoid in '
            'BaseSegmentor.postprocess_result. If your segmentor has its own, apply '
            'it there.'
        )
    return seg_logits


@MODELS.register_module()
class XModalTTAModel(BaseTTAModel):
    """Average the class probabilities of all views.

    The result is a new sample: the metainfo and the ground truth (``gt_*``) of the
    first view that is not flipped, ``pred_sem_seg``, and ``seg_logits``. The latter
    holds what the segmentor itself would store: for several classes the logarithm of
    the mean probability (its softmax is the mean again), for one channel the mean
    probability. Predictions of other tasks are left out, since those of a single view
    would pass for merged ones.

    Set it in the config, ``test.py --tta`` does the rest::

        tta_model = dict(type='mmseg_xmodal.XModalTTAModel')

    Args:
        module: The segmentor; the runner fills it in.
        data_preprocessor: As in mmengine; the runner leaves it to the segmentor.
    """

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
            {key: value for key, value in base.items() if key.startswith('gt_')}
        )
        mean = self._mean_probability(views)
        if mean.shape[0] > 1:
            label = mean.argmax(dim=0, keepdim=True)
            stored = mean.clamp(min=torch.finfo(mean.dtype).tiny).log()
        else:
            label = (mean > self.module.decode_head.threshold).to(mean)
            stored = mean
        merged.set_data(
            dict(pred_sem_seg=PixelData(data=label), seg_logits=PixelData(data=stored))
        )
        return merged

    @staticmethod
    def _mean_probability(views: Sequence[SegDataSample]) -> Tensor:
        shapes = {tuple(v.seg_logits.data.shape) for v in views}
        if len(shapes) > 1:
            raise ValueError(
                f'The views of {views[0].metainfo.get("img_path")} predict maps of the '
                f'shapes {sorted(shapes)}, expected one. Each view must keep '
                '`ori_shape`: load before TestTimeAug in tta_pipeline, resize inside.'
            )
        total = torch.zeros_like(views[0].seg_logits.data)
        for view in views:
            total += class_probabilities(view.seg_logits.data)
        return total / len(views)
