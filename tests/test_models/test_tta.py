from __future__ import annotations

from typing import Any

import pytest
import torch
from mmengine.structures import InstanceData, LabelData, PixelData
from mmseg.models.segmentors.base import BaseSegmentor
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from mmseg_xmodal.models.decode_heads import (
    ClassificationHead,
    DepthHead,
    EdgeHead,
    NormalHead,
    SegTaskHead,
)
from mmseg_xmodal.registry import MODELS

from .helpers import rand
from .multitask_toys import SEG, toy_inputs, toy_model, toy_samples


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


class Mask2FormerHead(nn.Module):
    """Is told by its name: mmseg's derives from mmdet, which may be absent."""

    threshold = 0.3


def _run(
    logits: list[Tensor],
    flips: list[bool],
    label: Tensor,
    head: nn.Module | None = None,
) -> SegDataSample:
    segmentor = _Segmentor(logits[0].shape[0])
    segmentor.decode_head = segmentor.decode_head if head is None else head
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


def test_scores_are_averaged_as_shares(label: Tensor):
    torch.manual_seed(0)
    scores = [torch.rand(3, 4, 6) * (9 if i else 1) for i in range(2)]
    merged = _run(scores, [True, False], label, Mask2FormerHead())
    mean = sum(x / x.sum(0) for x in scores) / 2
    torch.testing.assert_close(merged.seg_logits.data, mean)
    assert torch.equal(merged.pred_sem_seg.data, mean.argmax(0, keepdim=True))


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


def test_ignored_boxes_are_truth(label: Tensor):
    """Without them a detection inside of one would count as false."""
    model = MODELS.build(dict(type='mmseg_xmodal.XModalTTAModel', module=_Segmentor(3)))
    views = [_sample(flip, label) for flip in (True, False)]
    for i, view in enumerate(views):
        view.ignored_instances = InstanceData(bboxes=torch.full((1, 4), float(i)))
    (merged,) = model.merge_preds([views])
    assert merged.ignored_instances.bboxes.tolist() == [[1.0] * 4]


HEADS = dict(in_channels=[8], in_index=[0], channels=8)


def _multitask(views: list[dict], heads: dict) -> SegDataSample:
    """Merge views of one image that hold these predictions."""
    segmentor = _Segmentor(3)
    segmentor.task_heads = nn.ModuleDict(heads)
    model = MODELS.build(dict(type='mmseg_xmodal.XModalTTAModel', module=segmentor))
    samples = []
    for i, fields in enumerate(views):
        sample = _sample(i == 0, torch.zeros(1, 4, 6, dtype=torch.int64))
        # An enlarged view, whose depth its head has corrected already.
        sample.set_metainfo(dict(scale_factor=(2.0, 2.0), img_shape=(8, 12)))
        sample.set_data(fields)
        samples.append(sample)
    return model.merge_preds([samples])[0]


def test_maps_of_numbers_are_averaged():
    heads = dict(
        depth=DepthHead(**HEADS),
        normal=NormalHead(**HEADS),
        edge=EdgeHead(**HEADS),
    )
    depths = [rand(1, 4, 6, seed=i).abs() + 1 for i in (0, 1)]
    normals = [nn.functional.normalize(rand(3, 4, 6, seed=i), dim=0) for i in (0, 1)]
    edges = [rand(1, 4, 6, seed=i).sigmoid() for i in (0, 1)]
    views = [
        dict(
            pred_depth_map=PixelData(data=depth),
            pred_normal_map=PixelData(data=normal),
            pred_edge_map=PixelData(data=edge),
            pred_instances=InstanceData(scores=torch.ones(2)),
        )
        for depth, normal, edge in zip(depths, normals, edges, strict=True)
    ]
    merged = _multitask(views, heads)
    assert {key for key, _ in merged.items()} == {
        'gt_sem_seg',
        'pred_depth_map',
        'pred_normal_map',
        'pred_edge_map',
    }
    torch.testing.assert_close(merged.pred_depth_map.data, sum(depths) / 2)
    torch.testing.assert_close(merged.pred_edge_map.data, sum(edges) / 2)
    expected = nn.functional.normalize(sum(normals), dim=0)
    torch.testing.assert_close(merged.pred_normal_map.data, expected)


@pytest.mark.parametrize('classes', [2, 4])
def test_further_segmentations_are_averaged_as_probabilities(classes: int):
    cfg = SEG | dict(num_classes=classes)
    if classes == 2:
        cfg |= dict(out_channels=1, threshold=0.3)
    head = SegTaskHead(cfg, target='gt_cover')
    logits = [rand(head.out_channels, 4, 6, seed=i) * 3 for i in (0, 1)]
    views = [head.finish(x, {}) for x in logits]
    merged = _multitask(views, dict(cover=head)).pred_cover
    mean = sum(view['pred_cover'].scores for view in views) / 2
    torch.testing.assert_close(merged.scores, mean)
    label = (mean > 0.3).long() if classes == 2 else mean.argmax(0, keepdim=True)
    assert torch.equal(merged.data, label)
    assert not torch.equal(merged.data, views[-1]['pred_cover'].data)


@pytest.mark.parametrize('multi', [False, True])
def test_image_labels_are_averaged(multi: bool):
    head = ClassificationHead(
        num_classes=3, in_channels=[8], in_index=[0], multi_label=multi, threshold=0.4
    )
    scores = [torch.tensor([0.7, 0.3, 0.0]), torch.tensor([0.0, 0.6, 0.4])]
    views = [
        dict(pred_label=LabelData(score=s, label=s.argmax(0, keepdim=True)))
        for s in scores
    ]
    merged = _multitask(views, dict(cls=head)).pred_label
    torch.testing.assert_close(merged.score, torch.tensor([0.35, 0.45, 0.2]))
    assert merged.label.tolist() == ([0, 1, 0] if multi else [1])


def test_views_of_a_multi_task_model():
    """Two views through the model; the flipped one is flipped back once."""
    segmentor = toy_model().eval()
    model = MODELS.build(dict(type='mmseg_xmodal.XModalTTAModel', module=segmentor))
    images, samples = toy_inputs(1), []
    for flip in (False, True):
        (sample,) = toy_samples(1, without=['gt_label', 'gt_cover', 'gt_height'])
        sample.set_metainfo(dict(flip=flip, flip_direction='horizontal'))
        samples.append([sample])
    views = [images, images.flip(-1)]
    with torch.no_grad():
        (merged,) = model.test_step(dict(inputs=views, data_samples=samples))
        expected = segmentor.predict(images)[0].pred_height.data
        expected = expected + segmentor.predict(views[1])[0].pred_height.data.flip(-1)
    torch.testing.assert_close(merged.pred_height.data, expected / 2)
    assert {key for key, _ in merged.items()} == {
        'gt_sem_seg',
        'gt_instances',
        'pred_sem_seg',
        'seg_logits',
        'pred_height',
        'pred_cover',
    }
