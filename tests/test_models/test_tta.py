from __future__ import annotations

from typing import Any

import pytest
import torch
from mmengine.structures import InstanceData, PixelData
from mmseg.models.segmentors.base import BaseSegmentor
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from mmseg_xmodal.registry import MODELS


class _Segmentor(BaseSegmentor):
    """Hands its input out as logits, through mmseg's own post-processing."""

    align_corners = False

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.out_channels = channels
        self.decode_head = nn.Module()
        self.decode_head.threshold = 0.3

    def predict(self, inputs: Tensor, data_samples: list) -> list:
        samples = self.postprocess_result(inputs, data_samples)
        for sample in samples:
            sample.pred_depth_map = PixelData(data=torch.zeros(1, 4, 6))
            sample.pred_instances = InstanceData(scores=torch.ones(2))
        return samples

    def forward(self, inputs: Any, data_samples: Any, mode: str) -> Any:
        return self.predict(torch.stack(inputs), data_samples)

    def _forward(self) -> None: ...
    def encode_decode(self) -> None: ...
    def extract_feat(self) -> None: ...
    def loss(self) -> None: ...


def _sample(flip: bool, label: Tensor, name: str = 'a.png') -> SegDataSample:
    meta = dict(img_path=name, ori_shape=(4, 6), img_shape=(4, 6), flip=flip)
    sample = SegDataSample(metainfo=meta | dict(flip_direction='horizontal'))
    sample.gt_sem_seg = PixelData(data=label)
    return sample


def _run(logits: list[Tensor], flips: list[bool], label: Tensor) -> SegDataSample:
    segmentor = _Segmentor(logits[0].shape[0])
    model = MODELS.build(dict(type='mmseg_xmodal.XModalTTAModel', module=segmentor))
    views = [x.flip(-1) if flip else x for x, flip in zip(logits, flips, strict=True)]
    samples = [[_sample(f, label.flip(-1) if f else label)] for f in flips]
    merged = model.test_step(dict(inputs=[[v] for v in views], data_samples=samples))
    assert len(merged) == 1
    assert all(merged[0] is not views[0] for views in samples)
    return merged[0]


@pytest.fixture
def label() -> Tensor:
    return torch.randint(0, 3, (1, 4, 6), generator=torch.Generator().manual_seed(0))


def test_many_classes_are_averaged_as_probabilities(label: Tensor):
    torch.manual_seed(0)
    logits = [torch.randn(3, 4, 6) * 3 for _ in range(3)]
    merged = _run(logits, [True, False, False], label)
    mean = sum(x.softmax(0) for x in logits) / 3
    assert torch.equal(merged.pred_sem_seg.data, mean.argmax(0, keepdim=True))
    torch.testing.assert_close(merged.seg_logits.data.softmax(0), mean)


def test_one_channel_gets_the_sigmoid_once(label: Tensor):
    torch.manual_seed(0)
    logits = [torch.randn(1, 4, 6) * 3 for _ in range(2)]
    merged = _run(logits, [False, True], label)
    mean = sum(x.sigmoid() for x in logits) / 2
    torch.testing.assert_close(merged.seg_logits.data, mean)
    assert torch.equal(merged.pred_sem_seg.data, (mean > 0.3).float())
    assert 0 < merged.pred_sem_seg.data.mean() < 1  # the stock model: everything is 1


def test_stock_model_still_needs_replacing(label: Tensor):
    """Delete `class_probabilities` when this fails: mmseg has mended its own."""
    stock = MODELS.build(dict(type='mmseg.SegTTAModel', module=_Segmentor(1)))
    batch = dict(
        inputs=[[torch.full((1, 4, 6), -9.0)]], data_samples=[[_sample(False, label)]]
    )
    assert stock.test_step(batch)[0].pred_sem_seg.data.mean() == 1


def test_truth_is_kept_and_other_predictions_are_not(label: Tensor):
    merged = _run([torch.randn(3, 4, 6)] * 2, [True, False], label)
    assert torch.equal(merged.gt_sem_seg.data, label)
    assert set(merged.keys()) == {'gt_sem_seg', 'pred_sem_seg', 'seg_logits'}
    assert merged.metainfo['img_path'] == 'a.png'
    assert merged.metainfo['flip'] is False


def test_every_image_of_a_batch_keeps_its_own_views(label: Tensor):
    model = MODELS.build(dict(type='mmseg_xmodal.XModalTTAModel', module=_Segmentor(3)))
    torch.manual_seed(0)
    a, b = torch.randn(2, 3, 4, 6)
    views = [[_sample(False, label, n) for n in ('a', 'b')] for _ in range(2)]
    merged = model.test_step(dict(inputs=[[a, b], [a, b]], data_samples=views))
    for sample, name, logits in zip(merged, 'ab', (a, b), strict=True):
        assert sample.metainfo['img_path'] == name
        assert torch.equal(sample.pred_sem_seg.data[0], logits.argmax(0))


def test_one_channel_logits_are_refused(label: Tensor):
    model = MODELS.build(dict(type='mmseg_xmodal.XModalTTAModel', module=_Segmentor(1)))
    sample = _sample(False, label)
    sample.seg_logits = PixelData(data=torch.full((1, 4, 6), 1.5))
    with pytest.raises(ValueError, match='1.5, expected probabilities.*sigmoid'):
        model.merge_preds([[sample]])


def test_views_of_different_shapes_are_refused(label: Tensor):
    model = MODELS.build(dict(type='mmseg_xmodal.XModalTTAModel', module=_Segmentor(3)))
    samples = [SegDataSample(metainfo=dict(img_path='a.png')) for _ in range(2)]
    for i, sample in enumerate(samples):
        sample.seg_logits = PixelData(data=torch.zeros(3, 4, 6 + i))
    with pytest.raises(
        ValueError, match=r'a.png predict maps of the shapes.*\(3, 4, 7\)'
    ):
        model.merge_preds([samples])
