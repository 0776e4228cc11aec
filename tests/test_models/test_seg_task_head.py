from __future__ import annotations

from typing import Any

import pytest
import torch
from mmengine.structures import PixelData
from torch import Tensor, nn

from mmseg_xmodal.models.decode_heads import SegTaskHead
from mmseg_xmodal.models.decode_heads.task_head import TaskHead
from mmseg_xmodal.models.segmentors import multitask_build
from mmseg_xmodal.registry import MODELS

from .helpers import rand
from .multitask_toys import AUX, SEG, SIZE, WIDTHS, toy_heads, toy_samples

COVER = SEG | dict(num_classes=4)


@MODELS.register_module()
class ToyOwnLoss(nn.Module):
    """A head with an interface of its own, as mask classifiers have it."""

    align_corners = False
    out_channels = 2

    def loss(self, x: Any, batch_data_samples: Any, train_cfg: Any) -> dict:
        labels = [sample.gt_sem_seg.data for sample in batch_data_samples]
        paths = [sample.img_path for sample in batch_data_samples]
        return dict(loss_mask=torch.stack(labels).float().mean(), paths=paths)

    def predict(self, x: Any, batch_img_metas: Any, test_cfg: Any) -> Tensor:
        return torch.zeros(2, 2, *SIZE)


def feats() -> list[Tensor]:
    sizes = [(8, 16), (4, 8), (2, 4), (1, 2)]
    return [rand(2, c, *size) for c, size in zip(WIDTHS, sizes, strict=True)]


def build(head: dict = COVER, target: str = 'gt_cover') -> SegTaskHead:
    torch.manual_seed(0)
    cfg = dict(type='mmseg_xmodal.SegTaskHead', head=head, target=target)
    return MODELS.build(cfg)


def test_losses_are_those_of_the_head_against_the_target():
    head, samples = build(), toy_samples()
    losses = head.loss(feats(), samples)
    main = toy_samples()
    for sample in main:
        sample.gt_sem_seg = sample.gt_cover
    expected = head.head.loss(feats(), main, None)
    assert set(losses) == {'loss_ce', 'acc_seg'}
    assert torch.equal(losses['loss_ce'], expected['loss_ce'])
    output = head(feats())
    again = head.loss_of(output, samples)
    assert torch.equal(again['loss_ce'], expected['loss_ce'])
    # The samples are as they were.
    for sample, fresh in zip(samples, toy_samples(), strict=True):
        assert torch.equal(sample.gt_sem_seg.data, fresh.gt_sem_seg.data)
        assert set(sample.keys()) == set(fresh.keys())


def test_the_main_labels_are_not_needed():
    samples = toy_samples(without=['gt_sem_seg'])
    losses = build().loss(feats(), samples)
    assert losses['loss_ce'] > 0
    assert all('gt_sem_seg' not in sample for sample in samples)


def test_only_ignored_pixels_give_zero():
    samples = toy_samples()
    for sample in samples:
        sample.gt_cover.data.fill_(255)
    assert build().loss(feats(), samples)['loss_ce'] == 0


def test_many_classes():
    logits = rand(4, 5, 6) * 3
    (field,) = build().finish(logits, {}).items()
    assert field[0] == 'pred_cover'
    assert torch.equal(field[1].data, logits.argmax(0, keepdim=True))
    assert field[1].data.dtype == torch.int64
    torch.testing.assert_close(field[1].scores, logits.softmax(0))


def test_scores_become_shares():
    """Heads of masks, told by their name, give scores in the place of logits."""
    head = build(dict(type='mmseg_xmodal.ToyOwnLoss'))
    head.head = type('Mask2FormerHead', (ToyOwnLoss,), {})()
    scores = rand(5, 4, 6).sigmoid()
    field = head.finish(scores, {})['pred_cover']
    torch.testing.assert_close(field.scores, scores / scores.sum(0))
    assert torch.equal(field.data, scores.argmax(0, keepdim=True))


def test_a_binary_head_has_its_threshold():
    head = build(SEG | dict(num_classes=2, out_channels=1, threshold=0.7))
    logits = torch.tensor([[[-2.0, 0.5, 0.8, 1.5]]])
    field = head.finish(logits, {})['pred_cover']
    # The sigmoids are .12, .62, .69, .82.
    assert field.data.tolist() == [[[0, 0, 0, 1]]]
    assert field.data.dtype == torch.int64
    torch.testing.assert_close(field.scores, logits.sigmoid())


def test_prediction_is_that_of_the_head():
    head = build()
    metas = [dict(img_shape=SIZE)] * 2
    out = head.predict(feats(), metas)
    assert out.shape == (2, 4, *SIZE)
    assert torch.equal(out, head.head.predict(feats(), metas, None))
    assert (head.out_channels, head.align_corners, head.dense) == (4, False, True)
    assert head.has_truth(toy_samples()[0])
    assert not head.has_truth(toy_samples(without=['gt_cover'])[0])


def test_heads_with_a_loss_of_their_own():
    head = build(dict(type='mmseg_xmodal.ToyOwnLoss'))
    samples = toy_samples()
    losses = head.loss(feats(), samples)
    labels = torch.stack([sample.gt_cover.data for sample in samples])
    assert losses['loss_mask'] == labels.float().mean()
    assert losses['paths'] == ['0.png', '1.png']
    with pytest.raises(TypeError, match='ToyOwnLoss .*gt_cover.* is no BaseDecodeHead'):
        head.loss_of(torch.zeros(1), samples)


@pytest.mark.parametrize('target', ['cover', 'gt_', ''])
def test_targets_that_cannot_be(target):
    with pytest.raises(ValueError, match=f"target='{target}', expected 'gt_<name>'"):
        build(target=target)


def test_what_is_no_head():
    with pytest.raises(TypeError, match=r"type ReLU, which has no \['loss', 'predict'"):
        build(dict(type='ReLU'))


def test_views_are_merged_from_probabilities():
    head = build()
    scores = rand(4, 5, 6).softmax(0)
    field = head.prediction_of(scores)['pred_cover']
    assert isinstance(field, PixelData)
    assert torch.equal(field.data[0], scores.argmax(0))
    assert torch.equal(field.scores, scores)


def test_plain_heads_get_their_adapter(monkeypatch):
    built = multitask_build.build_task_head('cover', COVER)
    assert isinstance(built, SegTaskHead)
    assert (built.target, built.prediction) == ('gt_cover', 'pred_cover')
    from mmseg.models.decode_heads import FCNHead

    by_class = multitask_build.build_task_head('roof', AUX | dict(type=FCNHead))
    assert by_class.target == 'gt_roof'
    for cfg in toy_heads().values():
        assert isinstance(multitask_build.build_task_head('x', cfg), TaskHead)
    with pytest.raises(KeyError, match='NoSuchHead'):
        multitask_build.build_task_head('x', dict(type='NoSuchHead'))
    # A head of mmdet needs mmdet to be built, but not to be recognised.
    monkeypatch.setattr(multitask_build.MMSEG_MODELS, 'build', lambda cfg: cfg)
    cfg = dict(type='mmdet.FCOSHead', num_classes=3)
    adapter = multitask_build.build_task_head('det', cfg)
    assert adapter == dict(type='mmseg_xmodal.MMDetHead', head=cfg)
