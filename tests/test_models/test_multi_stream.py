"""Any backbone per stream: stock families, exchange, sharing, refusals."""

import pytest
import torch
from torch import nn

from mmseg_xmodal.models.backbones import MultiStreamBackbone
from mmseg_xmodal.models.layers import staged_forward, supported_backbones
from mmseg_xmodal.registry import MODELS

from .helpers import FOUR, RGBD, TINY, rand, randomise, without_gradient

BN = dict(type='BN', requires_grad=True)
RESNET = dict(type='mmseg.ResNet', depth=18, base_channels=8, norm_cfg=BN)
BACKBONES = dict(
    resnet=RESNET,
    resnet_v1c=dict(
        type='mmseg.ResNetV1c', depth=18, base_channels=8, stem_channels=8, norm_cfg=BN
    ),
    mobilenet=dict(type='mmseg.MobileNetV2', widen_factor=0.25, norm_cfg=BN),
    mit=dict(
        type='mmseg.MixVisionTransformer',
        embed_dims=8,
        num_layers=[1, 1, 1, 1],
        num_heads=[1, 2, 3, 4],
    ),
    swin=dict(
        type='mmseg.SwinTransformer',
        embed_dims=8,
        depths=(1, 1, 1, 1),
        num_heads=(1, 2, 2, 4),
        window_size=4,
        drop_path_rate=0.0,
    ),
    ours=dict(type='mmseg_xmodal.MixTransformer', variant=TINY, drop_path_rate=0.0),
)
CMX_FUSION = dict(type='mmseg_xmodal.CMXFusion')


def _build(backbone: dict, modalities: dict = RGBD, **kwargs) -> MultiStreamBackbone:
    kwargs = dict(fusion=CMX_FUSION) | kwargs
    model = MultiStreamBackbone(modalities, backbone, **kwargs)
    randomise(model)
    return model


class TakeFirst(nn.Module):
    """Exchanges nothing: the streams go on as they are, the first one is the map."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, feats, valid):
        return list(feats), feats[0]


class Scale(nn.Module):
    """Exchanges visibly: the second stream goes on as zeros."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, feats, valid):
        return [feats[0], 0 * feats[1]], feats[1]


@pytest.fixture(autouse=True)
def _register():
    for module in (TakeFirst, Scale):
        MODELS.register_module(module=module, force=True)


@pytest.mark.parametrize('name', BACKBONES)
@pytest.mark.parametrize('size', [(64, 96), (45, 61)])
def test_gradients_reach_every_modality(name: str, size: tuple[int, int]) -> None:
    # Weights as constructed: a saturated softmax has no gradient.
    model = MultiStreamBackbone(RGBD, BACKBONES[name], CMX_FUSION)
    x = rand(2, 4, *size).requires_grad_()
    outs = model(x)
    assert [o.shape[1] for o in outs] == list(model.out_channels)
    sum((o * rand(*o.shape, seed=i)).sum() for i, o in enumerate(outs)).backward()
    assert (x.grad.abs().sum((0, 2, 3)) > 0).all()
    # A constant added to all keys, or a bias before a BN, changes nothing.
    assert [n for n in without_gradient(model) if not n.endswith('bias')] == []


@pytest.mark.parametrize('name', BACKBONES)
def test_no_exchange_gives_the_stock_numbers(name: str) -> None:
    """The walkers run exactly what the backbone's own forward runs."""
    model = _build(BACKBONES[name], fusion=dict(type='mmseg_xmodal.TakeFirst')).eval()
    x = rand(1, 4, 72, 88)
    with torch.no_grad():
        outs, expected = model(x), model.streams[0](x[:, :3])
    assert len(outs) == len(expected) == 4
    for out, reference in zip(outs, expected, strict=True):
        # MiT's walker hands on maps in another memory order than mmseg's forward, so
        # that torch picks other kernels: equal up to float32 rounding.
        torch.testing.assert_close(out, reference, rtol=1e-5, atol=3e-6)


@pytest.mark.parametrize('name', BACKBONES)
def test_exchange_reaches_the_next_stage(name: str) -> None:
    model = _build(BACKBONES[name], fusion=dict(type='mmseg_xmodal.Scale')).eval()
    x = rand(1, 4, 64, 64)
    with torch.no_grad():
        outs, plain = model(x), model.streams[1](x[:, 3:])
    assert torch.allclose(outs[0], plain[0])
    assert not torch.allclose(outs[1], plain[1])


@pytest.mark.parametrize('name', ['resnet', 'swin', 'ours'])
def test_fusion_without_exchange(name: str) -> None:
    fused = dict(type='mmseg_xmodal.MeanFusion')
    model = _build(BACKBONES[name], fusion=fused, exchange=False).eval()
    x = rand(1, 4, 64, 64)
    with torch.no_grad():
        outs = model(x)
        streams = [model.streams[0](x[:, :3]), model.streams[1](x[:, 3:])]
    for out, a, b in zip(outs, *streams, strict=True):
        torch.testing.assert_close(out, (a + b) / 2)


def test_a_backbone_that_cannot_exchange() -> None:
    mscan = dict(type='mmseg.MSCAN', embed_dims=[8, 16, 24, 32], norm_cfg=BN)
    with pytest.raises(ValueError, match=r'MSCAN cannot exchange.*mmseg\.ResNet.*exch'):
        MultiStreamBackbone(RGBD, mscan)
    model = MultiStreamBackbone(RGBD, mscan, exchange=False)
    assert [o.shape[1] for o in model(rand(1, 4, 64, 64))] == [8, 16, 24, 32]


def test_supported_families_are_listed() -> None:
    text = ' '.join(supported_backbones())
    for name in ('ResNet', 'MobileNetV2', 'MixVisionTransformer', 'Swin', 'ConvNeXt'):
        assert name in text


def test_in_channels_come_from_the_layout() -> None:
    for name in ('resnet', 'mobilenet', 'swin'):
        model = _build(
            BACKBONES[name], FOUR, streams=dict(rgb=['rgb'], x=['nir', 'swir', 'dem'])
        )
        first = [
            next(m for m in s.modules() if isinstance(m, nn.Conv2d))
            for s in model.streams
        ]
        assert [conv.in_channels for conv in first] == [3, 4]


def test_wrong_in_channels_say_which_side() -> None:
    wrong = dict(RESNET, in_channels=4)
    with pytest.raises(
        ValueError,
        match=r"in_channels=4, but its stream 'rgb' reads modalities \{rgb: 3\}, 3 ch",
    ):
        MultiStreamBackbone(RGBD, wrong)


class TwoInputs(nn.Module):
    """Two convolutions meet the input, so setting the first one is not enough."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1)

    def forward(self, x):
        return self.first(x) + self.second(x)


def test_two_input_convolutions_are_refused() -> None:
    MODELS.register_module(module=TwoInputs, force=True)
    with pytest.raises(ValueError, match=r"TwoInputs fails.*\(1, 1, 64, 64\).*'depth'"):
        MultiStreamBackbone(RGBD, dict(type='mmseg_xmodal.TwoInputs'), exchange=False)


def test_shared_weights() -> None:
    layout = dict(left=dict(channels=3), right=dict(channels=3))
    separate, shared = (_build(RESNET, layout, shared=flag) for flag in (False, True))
    count = [sum(p.numel() for p in m.streams.parameters()) for m in (separate, shared)]
    assert count[0] == 2 * count[1]
    x = rand(1, 3, 64, 64)
    shared = _build(RESNET, layout, shared=True, fusion=None).eval()
    with torch.no_grad():
        outs = shared(torch.cat([x, x], 1))
        for out, expected in zip(outs, shared.streams[0](x), strict=True):
            torch.testing.assert_close(out, expected)
    with pytest.raises(ValueError, match=r'shared=True.*\(3, 1\) input channels'):
        MultiStreamBackbone(RGBD, RESNET, shared=True)
    with pytest.raises(ValueError, match='shared=True.*one config per stream'):
        MultiStreamBackbone(layout, dict(left=RESNET, right=RESNET), shared=True)


def test_a_backbone_per_stream() -> None:
    wide = dict(RESNET, base_channels=16)
    other = dict(
        type='mmseg.MixVisionTransformer', embed_dims=8, num_heads=[1, 2, 4, 8]
    )
    model = _build(dict(rgb=RESNET, depth=other))
    assert [type(s).__name__ for s in model.streams] == [
        'ResNet',
        'MixVisionTransformer',
    ]
    assert len(model(rand(2, 4, 64, 64))) == 4
    with pytest.raises(ValueError, match=r"keys \['rgb', 'x'\].*\['rgb', 'depth'\]"):
        MultiStreamBackbone(RGBD, dict(rgb=RESNET, x=RESNET))
    with pytest.raises(ValueError, match=r'\(8, 16, 32, 64\), \(16, 32, 64, 128\)'):
        MultiStreamBackbone(RGBD, dict(rgb=RESNET, depth=wide))


def test_different_strides_are_refused() -> None:
    dilated = dict(RESNET, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4))
    model = MultiStreamBackbone(RGBD, dict(rgb=RESNET, depth=dilated))
    with pytest.raises(ValueError, match='Level 2 has the shapes.*same strides'):
        model(rand(1, 4, 64, 64))


@pytest.mark.parametrize('streams', [1, 4])
def test_one_or_many_streams(streams: int) -> None:
    layout = FOUR if streams == 4 else dict(rgb=dict(channels=3))
    for fusion in ('MeanFusion', 'ConcatFusion'):
        model = _build(RESNET, layout, fusion=dict(type=f'mmseg_xmodal.{fusion}'))
        channels = model.input.layout.num_values
        valid = torch.ones(2, streams, 64, 64)
        x = torch.cat([rand(2, channels, 64, 64), valid], 1)
        assert len(model(x)) == 4
    with pytest.raises(ValueError, match=f'exactly 2 streams, got {streams}'):
        _build(RESNET, layout)(x)


def test_fewer_levels_by_out_indices() -> None:
    model = _build(dict(RESNET, out_indices=(1, 3)))
    assert model.out_channels == (16, 64)
    assert len(model(rand(2, 4, 64, 64))) == 2


def test_own_class_may_bring_its_walker() -> None:
    backbone = MODELS.build(BACKBONES['ours'])
    assert staged_forward(backbone) == backbone.forward_stages


def test_a_backbone_of_fixed_size_is_probed_with_its_own() -> None:
    beit = dict(type='mmseg.BEiT', img_size=(32, 96), embed_dims=16, num_layers=2)
    beit.update(num_heads=2, out_indices=[0, 1])
    model = MultiStreamBackbone(RGBD, beit, exchange=False)
    assert model.out_channels == (16, 16)
    assert [tuple(o.shape[2:]) for o in model(rand(1, 4, 32, 96))] == [(2, 6)] * 2


class Declares(nn.Module):
    """Says its channels; to run it would be a mistake."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 8, 1)

    @property
    def out_channels(self) -> tuple[int, ...]:
        return (8,)

    def forward(self, x):
        raise AssertionError('was run')


def test_declared_channels_are_not_probed() -> None:
    MODELS.register_module(module=Declares, force=True)
    cfg = dict(type='mmseg_xmodal.Declares')
    assert MultiStreamBackbone(RGBD, cfg, exchange=False).out_channels == (8,)


def test_probing_leaves_the_state_alone() -> None:
    """Building must not move BN statistics nor the mode."""
    model = MultiStreamBackbone(RGBD, RESNET)
    assert model.training
    assert all(
        b.sum() == 0 for n, b in model.named_buffers() if n.endswith('running_mean')
    )


def test_convnext_of_mmpretrain() -> None:
    pytest.importorskip('mmpretrain')
    convnext = dict(
        type='mmpretrain.ConvNeXt',
        arch=dict(depths=[1, 1, 1, 1], channels=[8, 16, 24, 32]),
        out_indices=(0, 1, 2, 3),
        gap_before_final_norm=False,
    )
    model = _build(convnext, fusion=dict(type='mmseg_xmodal.TakeFirst')).eval()
    x = rand(1, 4, 64, 64)
    with torch.no_grad():
        outs, expected = model(x), model.streams[0](x[:, :3])
    for out, reference in zip(outs, expected, strict=True):
        torch.testing.assert_close(out, reference)
