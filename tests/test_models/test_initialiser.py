"""Initialisation of all streams from one checkpoint, and what is reported."""

import pytest
import torch
import torch.nn.functional as F

from mmseg_xmodal.models.backbones import CMX, MixTransformer, MultiStreamBackbone
from mmseg_xmodal.models.layers.first_conv import adapt_first_conv
from mmseg_xmodal.registry import MODELS

from .helpers import FOUR, RGBD, TINY, rand, randomise

STREAMS = dict(rgb=['rgb'], x=['nir', 'swir', 'dem'])


def _mit() -> MixTransformer:
    model = MixTransformer(TINY)
    randomise(model)
    return model


def _segformer_state(model: MixTransformer) -> dict:
    """Rename ours to the official SegFormer layout, with a classifier."""
    state = {}
    for key, value in model.state_dict().items():
        _, stage, rest = key.split('.', 2)
        number = int(stage) + 1
        rest = rest.replace('mlp.dwconv.', 'mlp.dwconv.dwconv.')
        if rest.startswith('patch_embed.'):
            name = rest.replace('patch_embed.', f'patch_embed{number}.')
        elif rest.startswith('blocks.'):
            name = rest.replace('blocks.', f'block{number}.')
        else:
            name = rest.replace('norm.', f'norm{number}.')
        state[name] = value
    return state | {'head.weight': torch.zeros(5, 32), 'head.bias': torch.zeros(5)}


def _mmseg_state() -> dict:
    stock = MODELS.build(
        dict(
            type='mmseg.MixVisionTransformer',
            embed_dims=8,
            num_layers=TINY['depths'],
            num_heads=TINY['num_heads'],
        )
    )
    randomise(stock)
    return stock.state_dict()


def _save(tmp_path, content) -> str:
    path = tmp_path / 'mit.pth'
    torch.save(content, path)
    return str(path)


def test_official_layout_into_both_streams(tmp_path) -> None:
    source = _mit()
    path = _save(tmp_path, _segformer_state(source))
    model = CMX(
        RGBD, TINY, pretrained=dict(checkpoint=path, first_conv='sum'), drop_path_rate=0
    )
    model.init_weights()
    report = model.init_report
    assert report.layout == 'segformer'
    assert report.loaded == dict.fromkeys(('rgb', 'depth'), len(source.state_dict()))
    assert report.skipped == ('head.weight', 'head.bias')
    assert report.adapted == {'depth': "3 to 1 channels by 'sum'"}
    for text in ('mit.pth', 'segformer', 'rgb: ', 'head.weight', "by 'sum'"):
        assert text in str(report)
    x = rand(1, 3, 64, 64)
    torch.testing.assert_close(model.streams[0].eval()(x), source.eval()(x))
    # One channel through summed weights equals that channel replicated to three.
    grey = rand(1, 1, 64, 64)
    torch.testing.assert_close(
        model.streams[1].eval()(grey), source(grey.repeat(1, 3, 1, 1))
    )


def test_mmseg_layout_inside_a_segmentor(tmp_path) -> None:
    state = {f'backbone.{k}': v for k, v in _mmseg_state().items()}
    state['decode_head.conv_seg.bias'] = torch.zeros(3)
    path = _save(tmp_path, dict(state_dict=state, meta=dict(epoch=3)))
    model = CMX(dict(a=dict(channels=3), b=dict(channels=3)), TINY, pretrained=path)
    model.init_weights()
    assert model.init_report.layout == 'mmseg'
    assert model.init_report.skipped == ('decode_head.conv_seg.bias',)
    assert model.init_report.adapted == {}
    own = model.streams[1].stages[1].blocks[1].attn.kv.weight
    in_proj = state['backbone.layers.1.1.1.attn.attn.in_proj_weight']
    assert torch.equal(own, in_proj[16:])


def test_four_channels_and_one_mode_per_stream(tmp_path) -> None:
    path = _save(tmp_path, _mmseg_state())
    modes = dict(x='repeat')
    model = CMX(FOUR, TINY, STREAMS, pretrained=dict(checkpoint=path, first_conv=modes))
    model.init_weights()
    assert model.init_report.adapted == {'x': "3 to 4 channels by 'repeat'"}
    with pytest.raises(ValueError, match=r"first_conv names the streams \['nir'\]"):
        CMX(
            FOUR,
            TINY,
            STREAMS,
            pretrained=dict(checkpoint=path, first_conv=dict(nir='sum')),
        ).init_weights()


def test_random_keeps_the_initialisation(tmp_path) -> None:
    path = _save(tmp_path, _mmseg_state())
    model = CMX(RGBD, TINY, pretrained=dict(checkpoint=path, first_conv='random'))
    torch.manual_seed(0)
    model.init_weights()
    expected = CMX(RGBD, TINY)
    torch.manual_seed(0)
    expected.init_weights()
    first = [m.streams[1].stages[0].patch_embed.proj.weight for m in (model, expected)]
    assert torch.equal(*first)


def test_a_difference_without_first_conv_is_an_error(tmp_path) -> None:
    path = _save(tmp_path, _mmseg_state())
    with pytest.raises(ValueError, match="'depth' has 1 input.*first_conv='sum'"):
        CMX(RGBD, TINY, pretrained=path).init_weights()


@pytest.mark.parametrize('channels', [1, 2, 4, 7])
@pytest.mark.parametrize('mode', ['sum', 'repeat'])
def test_response_to_equal_channels_stays(channels: int, mode: str) -> None:
    weight = rand(6, 3, 3, 3, dtype=torch.float64)
    grey = rand(1, 1, 9, 9, seed=1, dtype=torch.float64)
    # Three does not divide 4 or 7: there 'repeat' keeps the size only on average.
    if mode == 'repeat' and channels % 3:
        weight = weight.mean(1, keepdim=True).repeat(1, 3, 1, 1)
    adapted = adapt_first_conv(weight, channels, mode)
    assert adapted.shape == (6, channels, 3, 3)
    torch.testing.assert_close(
        F.conv2d(grey.repeat(1, channels, 1, 1), adapted),
        F.conv2d(grey.repeat(1, 3, 1, 1), weight),
    )


def test_mean_mode_and_unknown_mode() -> None:
    weight = rand(6, 3, 3, 3)
    adapted = adapt_first_conv(weight, 2, 'mean')
    torch.testing.assert_close(adapted[:, 1], weight.mean(1))
    with pytest.raises(ValueError, match="first_conv='max', expected one of"):
        adapt_first_conv(weight, 2, 'max')


def test_weights_of_another_size(tmp_path) -> None:
    deeper = MixTransformer(dict(TINY, depths=(1, 2, 2, 1)))
    path = _save(tmp_path, deeper.state_dict())
    layout = dict(a=dict(channels=3), b=dict(channels=3))
    with pytest.raises(ValueError, match=r'tensors that the backbone lacks.*s\.2\.bl'):
        CMX(layout, TINY, pretrained=path).init_weights()
    shallower = MixTransformer(dict(TINY, depths=(1, 1, 1, 1)))
    path = _save(tmp_path, shallower.state_dict())
    with pytest.raises(ValueError, match=r'lacks.*stages\.1\.blocks\.1'):
        CMX(layout, TINY, pretrained=path).init_weights()
    wider = MixTransformer(dict(TINY, embed_dims=(8, 16, 24, 48)))
    path = _save(tmp_path, wider.state_dict())
    with pytest.raises(ValueError, match=r'got \(48, .*expected \(32, '):
        CMX(layout, TINY, pretrained=path).init_weights()


def test_options_are_checked(tmp_path) -> None:
    with pytest.raises(ValueError, match='expected checkpoint'):
        CMX(RGBD, TINY, pretrained=dict(path='x')).init_weights()
    with pytest.raises(FileNotFoundError, match='nowhere.pth'):
        CMX(RGBD, TINY, pretrained=str(tmp_path / 'nowhere.pth')).init_weights()


def test_multi_stream_takes_weights_of_its_backbone(tmp_path) -> None:
    cfg = dict(type='mmseg.MobileNetV2', widen_factor=0.25)
    source = MODELS.build(cfg)
    randomise(source)
    state = source.state_dict() | {'classifier.weight': torch.zeros(2, 2)}
    pretrained = dict(checkpoint=_save(tmp_path, state), first_conv='sum')
    model = MultiStreamBackbone(RGBD, cfg, pretrained=pretrained)
    model.init_weights()
    assert model.init_report.skipped == ('classifier.weight',)
    assert list(model.init_report.adapted) == ['depth']
    own = model.streams[0].state_dict()
    torch.testing.assert_close(dict(own), dict(source.state_dict()))


def test_shared_backbone_is_loaded_once(tmp_path) -> None:
    source = _mit()
    path = _save(tmp_path, source.state_dict())
    model = MultiStreamBackbone(
        dict(a=dict(channels=3), b=dict(channels=3)),
        dict(type='mmseg_xmodal.MixTransformer', variant=TINY),
        shared=True,
        pretrained=path,
    )
    model.init_weights()
    assert set(model.init_report.loaded) == {'a', 'b'}
    torch.testing.assert_close(
        dict(model.streams[0].state_dict()), dict(source.state_dict())
    )


def test_init_cfg_still_works(tmp_path) -> None:
    source = CMX(RGBD, TINY)
    randomise(source)
    path = _save(tmp_path, source.state_dict())
    model = CMX(RGBD, TINY, init_cfg=dict(type='Pretrained', checkpoint=path))
    model.init_weights()
    torch.testing.assert_close(dict(model.state_dict()), dict(source.state_dict()))
