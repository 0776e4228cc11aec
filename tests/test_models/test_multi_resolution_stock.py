"""MultiResolutionSegmentor behind stock interfaces: slide, TTA, samplers, heads."""

from __future__ import annotations

import copy

import numpy as np
import torch
from mmengine.optim import OptimWrapper
from torch import Tensor

from mmseg_xmodal.models.layers.resolutions import (
    CropBox,
)
from mmseg_xmodal.registry import MODELS

from .head_cases import sample, total
from .helpers import randomise, without_gradient
from .resolution_toys import (
    BYTES,
    SIZE,
    STOCK,
    WIDTHS,
    batch,
    build,
    config,
)


def test_stock_slide_inference() -> None:
    slide = dict(mode='slide', crop_size=(48, 64), stride=(24, 32))
    model = build(test_cfg=slide).eval()
    inputs, samples = batch((70, 90))
    with torch.no_grad():
        found = model(inputs, samples, mode='predict')
        part = model.encode_decode(inputs[:, :, :48, :64], [{}])
    assert found[0].seg_logits.data.shape == (5, 70, 90)
    # Only the first window reaches the corner.
    torch.testing.assert_close(
        found[0].seg_logits.data[:, :20, :20], part[0, :, :20, :20]
    )


def test_stock_interface() -> None:
    auxiliary = dict(type='FCNHead', in_channels=WIDTHS[3], in_index=3, channels=8)
    model = build(auxiliary_head=auxiliary | dict(num_classes=5, num_convs=1))
    keys = set(model.state_dict())
    assert 'decode_head.head.conv_seg.weight' in keys
    assert 'decode_head.scale_attention.fuse_layer.conv.weight' in keys
    assert not any(key.startswith('decode_head.conv_seg') for key in keys)
    assert (model.out_channels, model.num_classes, model.align_corners) == (5, 5, False)
    assert model.decode_head.threshold is None
    assert model.decode_head.ignore_index == 255
    assert model.test_cfg.mode == 'whole'
    model.init_weights()
    inputs, samples = batch()
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    before = copy.deepcopy(model.state_dict())
    logged = model.train_step(dict(inputs=inputs, data_samples=samples), wrapper)
    assert set(logged) == {
        'loss',
        'decode.loss_ce',
        'decode.acc_seg',
        'decode.detail_loss_ce',
        'decode.detail_acc_seg',
        'aux.loss_ce',
        'aux.acc_seg',
    }
    terms = [value for name, value in logged.items() if '.' in name and 'loss' in name]
    torch.testing.assert_close(logged['loss'], sum(terms))
    for key in (
        'head.conv_seg',
        'scale_attention.conv_seg',
        'head.embed_layers.0.proj',
    ):
        name = f'decode_head.{key}.weight'
        assert not torch.equal(model.state_dict()[name], before[name])


def test_half_precision() -> None:
    model = build(rng=np.random.RandomState(0)).eval()
    inputs, samples = batch()
    box = CropBox(16, 48, 24, 72)
    full = model.loss(inputs, samples, box)
    with torch.autocast('cpu', torch.bfloat16):
        half = model.loss(inputs, samples, box)
        with torch.no_grad():
            found = model(inputs, samples, mode='predict')
    total(half).backward()
    assert without_gradient(model) == []
    # 8 bits of mantissa through the whole network.
    torch.testing.assert_close(total(half), total(full), rtol=0.05, atol=0)
    assert torch.isfinite(found[0].seg_logits.data).all()


class _Weights:
    """A sampler that answers with given weights, as for pseudo-labels."""

    def __init__(self, weight: Tensor) -> None:
        self.weight, self.shapes = weight, []

    def sample(self, seg_logit: Tensor, seg_label: Tensor) -> Tensor:
        self.shapes.append((tuple(seg_logit.shape), tuple(seg_label.shape)))
        return self.weight


def test_weights_of_pixels_are_cropped_for_the_detail() -> None:
    model = build().eval()
    inputs, samples = batch()
    box = CropBox(16, 48, 24, 72)
    plain = model.loss(inputs, samples, box)
    weight = torch.zeros(2, *SIZE)
    sampler = _Weights(weight)
    model.decode_head.sampler = sampler
    outside = weight.clone()
    outside[:, :16] = 1
    for sampler.weight, expected in (
        (weight + 1, plain['decode.detail_loss_ce']),
        (outside, torch.tensor(0.0)),
    ):
        losses = model.loss(inputs, samples, box)
        torch.testing.assert_close(losses['decode.detail_loss_ce'], expected)
        assert losses['decode.loss_ce'] > 0
    assert sampler.shapes == [((2, 5, *SIZE), (2, 1, *SIZE))] * 2


def test_other_heads_scales_and_shares() -> None:
    """A head at stride 8, context at a quarter, one share for all classes."""
    model = build(
        decode_head=STOCK,
        scale_attention=STOCK | dict(num_classes=1),
        detail_size=(32, 32),
        detail_stride=(32, 32),
        context_scale=0.25,
        crop_divisor=32,
        detail_loss_weight=0.0,
    )
    inputs, samples = batch()
    losses = model.loss(inputs, samples)
    assert set(losses) == {'decode.loss_ce', 'decode.acc_seg'}
    total(losses).backward()
    unused = ('backbone.stages.2.', 'backbone.stages.3.')
    assert all(name.startswith(unused) for name in without_gradient(model))
    with torch.no_grad():
        assert model.eval().encode_decode(inputs, [{}]).shape == (2, 5, *SIZE)


def test_test_time_augmentation() -> None:
    data = dict(type='mmseg_xmodal.ModalityPreprocessor', modalities=BYTES)
    cfg = dict(type='mmseg_xmodal.XModalTTAModel')
    cfg['module'] = config(data_preprocessor=data)
    tta = MODELS.build(cfg).eval()
    randomise(tta)
    view = torch.randint(0, 255, (4, 45, 59), dtype=torch.uint8)
    flipped = sample((45, 59))
    flipped.set_metainfo(dict(flip=True, flip_direction='horizontal'))
    views = dict(
        inputs=[[view], [view.flip(-1)]], data_samples=[[sample((45, 59))], [flipped]]
    )
    with torch.no_grad():
        merged = tta.test_step(views)[0]
    assert merged.seg_logits.data.shape == (5, 45, 59)
    assert merged.metainfo['flip'] is False
    probabilities = merged.seg_logits.data.exp()
    torch.testing.assert_close(probabilities.sum(0), torch.ones(45, 59))
