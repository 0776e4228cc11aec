"""Prediction of :class:`MultiTaskEncoderDecoder`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mmengine.analysis import get_model_complexity_info
from mmengine.config import ConfigDict
from torch import Tensor
from torch.nn import functional as F

from mmseg_xmodal.models.segmentors.multitask_predict import restore
from mmseg_xmodal.registry import MODELS

from .helpers import randomise
from .multitask_toys import (
    BACKBONE,
    SEG,
    SIZE,
    WIDTHS,
    toy_inputs,
    toy_model,
    toy_samples,
)

SLIDE = dict(mode='slide', crop_size=(24, 32), stride=(16, 24))
PREDICTED = {
    'pred_sem_seg',
    'seg_logits',
    'pred_height',
    'pred_cover',
    'pred_instances',
}


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def ready(**kwargs: Any) -> Any:
    """A model whose predictions differ from place to place."""
    model = toy_model(**kwargs)
    randomise(model)
    return model.eval()


def maps(sample: Any) -> dict[str, Tensor]:
    """What the dense tasks predict."""
    return dict(
        seg=sample.seg_logits.data,
        height=sample.pred_height.data,
        cover=sample.pred_cover.scores,
    )


def viewed(**meta: Any) -> list:
    """Two samples without truth whose images went through a test pipeline."""
    samples = toy_samples(without=['gt_sem_seg', 'gt_cover', 'gt_height'])
    for sample in samples:
        sample.set_metainfo(meta)
    return samples


def stock(model: Any, **kwargs: Any) -> Any:
    cfg = dict(backbone=BACKBONE, decode_head=SEG, **kwargs)
    segmentor = MODELS.build(dict(type='mmseg.EncoderDecoder', **cfg))
    segmentor.load_state_dict(model.state_dict(), strict=False)
    return segmentor.eval()


@pytest.mark.parametrize('test_cfg', [dict(mode='whole'), SLIDE])
def test_the_segmentation_is_the_stock_one(test_cfg):
    model = ready(test_cfg=test_cfg)
    plain = stock(model, test_cfg=ConfigDict(test_cfg))
    meta = dict(
        ori_shape=(20, 50),
        img_shape=(30, 60),
        img_padding_size=(0, 4, 0, 2),
        flip=True,
        flip_direction='horizontal',
    )
    ours = model.predict(toy_inputs(), viewed(**meta))
    expected = plain.predict(toy_inputs(), viewed(**meta))
    for one, other in zip(ours, expected, strict=True):
        assert torch.equal(one.pred_sem_seg.data, other.pred_sem_seg.data)
        assert torch.equal(one.seg_logits.data, other.seg_logits.data)
        assert set(one.keys()) == {*other.keys(), *PREDICTED}


@pytest.mark.parametrize('direction', ['horizontal', 'vertical'])
def test_padding_flip_and_resize_are_undone_once(direction):
    model = ready()
    inputs = toy_inputs()
    meta = dict(
        ori_shape=(17, 41),
        img_shape=(30, 60),
        img_padding_size=(1, 3, 2, 0),
        flip=True,
        flip_direction=direction,
    )
    samples = model.predict(inputs, viewed(**meta))
    feats = model.extract_feat(inputs)
    head = model.task_heads.height
    raw = F.interpolate(head(feats), SIZE, mode='bilinear', align_corners=False)
    inner = raw[:, :, 2:, 1:-3].flip(-1 if direction == 'horizontal' else -2)
    expected = F.interpolate(inner, (17, 41), mode='bilinear', align_corners=False)
    for sample, one in zip(samples, expected, strict=True):
        assert torch.equal(sample.pred_height.data, one)
        for value in maps(sample).values():
            assert value.shape[1:] == (17, 41)
        assert sample.pred_cover.data.shape == (1, 17, 41)
        assert sample.pred_cover.data.dtype == torch.int64
        assert torch.equal(
            sample.pred_cover.data[0], sample.pred_cover.scores.argmax(0)
        )
    assert expected.std() > 0.01
    # What depends on the view beyond its place is the head's own matter.
    assert [meta['flip_direction'] for meta in head.metas] == [direction] * 2
    assert [meta['img_shape'] for meta in head.metas] == [(30, 60)] * 2


def test_an_unknown_flip_is_refused():
    meta = dict(ori_shape=(4, 4), flip=True, flip_direction='sideways')
    with pytest.raises(ValueError, match="flip_direction='sideways'"):
        restore(torch.zeros(1, 4, 4), meta, align_corners=False)


def test_a_window_of_the_whole_image_is_whole_inference():
    model = ready()
    whole = model.predict(toy_inputs(), toy_samples())
    model.test_cfg.update(mode='slide', crop_size=SIZE, stride=SIZE)
    slid = model.predict(toy_inputs(), toy_samples())
    for one, other in zip(whole, slid, strict=True):
        for task, value in maps(one).items():
            assert torch.equal(value, maps(other)[task]), task
        assert torch.equal(one.pred_instances.bboxes, other.pred_instances.bboxes)


def test_overlapping_windows_are_averaged_for_all_maps():
    model = ready(test_cfg=SLIDE)
    inputs = toy_inputs()
    samples = model.predict(inputs, toy_samples())
    channels = dict(seg=3, height=1, cover=4)
    total = torch.zeros(2, 8, *SIZE)
    count = torch.zeros(SIZE)
    for y in (0, 8):
        for x in (0, 24, 32):
            window = inputs[:, :, y : y + 24, x : x + 32]
            feats = model.extract_feat(window)
            raw = [model.decode_head(feats)]
            raw += [model.task_heads[task](feats) for task in ('height', 'cover')]
            out = [
                F.interpolate(r, (24, 32), mode='bilinear', align_corners=False)
                for r in raw
            ]
            total[:, :, y : y + 24, x : x + 32] += torch.cat(out, 1)
            count[y : y + 24, x : x + 32] += 1
    assert count.max() > 1
    mean = dict(
        zip(channels, (total / count).split(list(channels.values()), 1), strict=True)
    )
    mean['cover'] = mean['cover'].softmax(1)
    for i, sample in enumerate(samples):
        for task, value in maps(sample).items():
            torch.testing.assert_close(value, mean[task][i], msg=task)
    assert model.dense_channels == channels
    assert model.out_channels == 3


def test_tasks_without_a_map_see_the_whole_image_once():
    model = ready(test_cfg=SLIDE)
    slid = model.predict(toy_inputs(), toy_samples())
    # One pass over 32 x 64 pixels; the last level has a stride of 32.
    assert model.task_heads.det.seen == [(1, 2)]
    expected = model.task_heads.det(model.extract_feat(toy_inputs()))
    for sample, box in zip(slid, expected, strict=True):
        assert torch.equal(sample.pred_instances.bboxes[0], box)
    # Heads hear of the image, not of the last window.
    assert [meta['img_shape'] for meta in model.task_heads.height.metas] == [SIZE] * 2


def test_windows_with_gaps_are_refused():
    model = ready(test_cfg=dict(mode='slide', crop_size=(16, 16), stride=(16, 20)))
    with pytest.raises(ValueError, match=r'stride=\(16, 20\) and crop_size=\(16, 16\)'):
        model.predict(toy_inputs())


@pytest.mark.parametrize('test_cfg', [None, dict(mode='whole'), SLIDE])
def test_without_samples(test_cfg):
    samples = ready(test_cfg=test_cfg).predict(toy_inputs(3))
    assert len(samples) == 3
    for sample in samples:
        assert set(sample.keys()) == PREDICTED
        assert all(value.shape[1:] == SIZE for value in maps(sample).values())


@pytest.mark.parametrize('test_cfg', [dict(mode='whole'), SLIDE])
@pytest.mark.parametrize(
    ('tasks', 'fields'),
    [
        (['det'], {'pred_instances'}),
        (['height', 'det'], {'pred_height', 'pred_instances'}),
        (['seg'], {'pred_sem_seg', 'seg_logits'}),
    ],
)
def test_only_the_chosen_tasks_are_predicted(tasks, fields, test_cfg):
    model = ready(tasks=tasks, test_cfg=test_cfg)
    samples = model.predict(toy_inputs(), viewed())
    assert {key for key, _ in samples[0].items() if 'gt_' not in key} == fields
    assert set(model(toy_inputs(), mode='tensor')) == set(tasks)


def test_heads_read_their_pyramid_of_the_interaction():
    cfg = dict(type='mmseg_xmodal.ToyInteraction', in_channels=list(WIDTHS))
    model = ready(interaction=cfg)
    raw = model(toy_inputs(), mode='tensor')
    feats = model.extract_feat(toy_inputs())
    pyramids, _ = model.interaction(feats)
    assert torch.equal(raw['height'], model.task_heads.height(pyramids['height']))
    assert torch.equal(raw['seg'], model.decode_head(pyramids['seg']))
    assert torch.equal(raw['det'], model.task_heads.det(feats))
    size = torch.Size(SIZE)
    out = model.encode_decode(toy_inputs(), [dict(img_shape=size)])
    expected = F.interpolate(raw['height'], SIZE, mode='bilinear', align_corners=False)
    assert torch.equal(out[:, 3:4], expected)


def test_mixed_precision():
    model = ready()
    exact = model.predict(toy_inputs(), toy_samples())
    with torch.autocast('cpu', torch.bfloat16):
        rounded = model.predict(toy_inputs(), toy_samples())
    for task, value in maps(exact[0]).items():
        other = maps(rounded[0])[task]
        # bfloat16 keeps 8 bits; a few layers add up.
        assert 0 < (other.float() - value).abs().max() < 0.1 * value.abs().max(), task


def test_operations_are_counted_for_every_head():
    def flops(model: Any) -> float:
        inputs = (toy_inputs(1),)
        options = dict(show_table=False, show_arch=False)
        return get_model_complexity_info(model, inputs=inputs, **options)['flops']

    assert flops(ready()) > flops(ready(tasks=['seg', 'det'])) > 0
