"""CMX with Swin streams: published form, conversion, initialisation, validity."""

from pathlib import Path

import pytest
import torch
from mmengine import Config
from mmseg.models.backbones import SwinTransformer

from mmseg_xmodal.models.backbones import CMXSwin
from mmseg_xmodal.models.converters import convert_official, convert_swin, recognise
from mmseg_xmodal.models.converters.cmx import CMX as OFFICIAL_MIT
from mmseg_xmodal.models.converters.cmx_swin import CMX_SWIN
from mmseg_xmodal.registry import MODELS
from tests.reference_forms import PUBLISHED
from tests.reference_forms.cmx import PublishedCMX
from tests.reference_forms.cmx_swin import PublishedCMXSwin

from .helpers import FOUR, RGBD, rand, randomise, without_gradient

TINY = dict(embed_dim=8, depths=(2, 1, 2, 1), num_heads=(1, 2, 4, 4), window=5)
STREAMS = dict(rgb=['rgb'], x=['nir', 'swir', 'dem'])


def _segmentor(**backbone) -> torch.nn.Module:
    backbone = dict(modalities=RGBD, variant=TINY) | backbone
    return MODELS.build(
        dict(
            type='EncoderDecoder',
            data_preprocessor=dict(
                type='mmseg_xmodal.ModalityPreprocessor',
                modalities=backbone['modalities'],
            ),
            backbone=dict(type='mmseg_xmodal.CMXSwin', **backbone),
            decode_head=dict(
                type='mmseg_xmodal.CMXHead',
                in_channels=[8, 16, 32, 64],
                channels=16,
                num_classes=3,
                dropout_ratio=0.0,
            ),
            test_cfg=dict(mode='whole'),
        )
    )


@pytest.mark.parametrize('size', [(64, 96), (45, 61), (1, 1)])
def test_gradients_reach_every_modality(size: tuple[int, int]) -> None:
    model = CMXSwin(RGBD, TINY, drop_path_rate=0.0)
    model.init_weights()
    x = rand(2, 4, *size).requires_grad_()
    outs = model(x)
    assert [o.shape[1] for o in outs] == list(model.out_channels) == [8, 16, 32, 64]
    expected = [-(-size[0] // 2**i) for i in (2, 3, 4, 5)]
    assert [o.shape[2] for o in outs] == expected
    sum(out.square().mean() for out in outs).backward()
    assert (x.grad.abs().sum((0, 2, 3)) > 0).all()
    if size != (1, 1):  # one place: no attention, BN of few values
        assert without_gradient(model) == []
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize('train', [True, False])
def test_equals_the_published_form(train: bool) -> None:
    """Double precision; train = BN on batch statistics, drop path off."""
    model = _segmentor(drop_path_rate=0.0).double()
    randomise(model)
    published = PUBLISHED['mmseg_xmodal.CMXSwin'](model).double()
    model.train(train), published.train(train)
    x = rand(2, 4, 72, 88, dtype=torch.float64)
    ours, expected = model(x, mode='tensor'), published(x)
    torch.testing.assert_close(ours, expected)
    ours.square().sum().backward()
    expected.square().sum().backward()
    stages, layers = model.backbone.streams[1].stages, published.backbone.layers_d
    for part in ('relative_position_bias_table', 'qkv.weight', 'qkv.bias'):
        own = stages[0].blocks[1].attn.get_parameter(part)
        theirs = layers[0].blocks[1].attn.get_parameter(part)
        torch.testing.assert_close(own.grad, theirs.grad)


def test_published_form_reads_streams_of_several_modalities() -> None:
    model = _segmentor(modalities=FOUR, streams=dict(x=['dem', 'nir'], rgb=['rgb']))
    model = model.double().eval()
    randomise(model)
    published = PUBLISHED['mmseg_xmodal.CMXSwin'](model).double().eval()
    x = rand(1, 7, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(model(x, mode='tensor'), published(x))


@pytest.mark.parametrize('name', ['swin_t', 'swin_s', 'swin_b', 'swin_b_384'])
def test_official_checkpoints_tell_their_config(name: str) -> None:
    with torch.device('meta'):
        official = PublishedCMXSwin(name, num_classes=9, embed_dim=64).state_dict()
    config = CMX_SWIN.config(official)
    assert config['backbone']['variant'] == name
    assert config['decode_head']['num_classes'] == 9
    key = 'backbone.layers.0.blocks.0.attn.relative_position_index'
    official[key] = torch.empty(49, 49, device='meta')
    convert_official(CMX_SWIN, official)
    assert recognise(official) == [CMX_SWIN]


def test_the_two_kinds_of_streams_are_told_apart() -> None:
    with torch.device('meta'):
        swin = PublishedCMXSwin('swin_t').state_dict()
        mit = PublishedCMX('mit_b0').state_dict()
    with pytest.raises(ValueError, match=r'no official CMX.*Swin.*convert.py cmx '):
        convert_official(CMX_SWIN, mit)
    with pytest.raises(ValueError, match=r'It looks like.*convert.py cmx-swin'):
        convert_official(OFFICIAL_MIT, swin)
    del swin['backbone.norm_d2.weight']
    with pytest.raises(ValueError, match=r'missing.*streams.1.stages.2.norm.weight'):
        convert_official(CMX_SWIN, swin)


def _stock(path: Path, layout: str) -> SwinTransformer:
    """Save a stock Swin as a checkpoint of some layout."""
    stock = SwinTransformer(
        embed_dims=8, window_size=5, depths=(2, 1, 2, 1), num_heads=(1, 2, 4, 4)
    )
    randomise(stock)
    state = stock.state_dict()
    if layout == 'official Swin':
        ours = convert_swin(state).state
        state = {k.replace('stages.', 'layers.'): v for k, v in ours.items()}
        state = {k: v for k, v in state.items() if '.norm.' not in k[8:14]}
        state['norm.weight'] = state['norm.bias'] = torch.ones(64)
        state['head.weight'] = torch.ones(10, 64)
        state['layers.0.blocks.1.attn_mask'] = torch.zeros(4, 25, 25)
        state = dict(model=state)
    torch.save(state, path)
    return stock


@pytest.mark.parametrize('layout', ['mmseg', 'official Swin'])
def test_imagenet_weights_go_into_both_streams(tmp_path: Path, layout: str) -> None:
    path = tmp_path / 'swin.pth'
    stock = _stock(path, layout)
    pretrained = dict(checkpoint=str(path), first_conv=dict(depth='sum'))
    model = CMXSwin(RGBD, TINY, drop_path_rate=0.0, pretrained=pretrained)
    model.init_weights()
    report = model.init_report
    assert report.layout == layout
    assert set(report.adapted) == {'depth'}
    new = 0 if layout == 'mmseg' else 8
    own = model.streams[0].state_dict()
    assert report.loaded == dict.fromkeys(('rgb', 'depth'), len(own) - new)
    assert len(report.new) == new
    if layout != 'mmseg':
        assert "New, not in the checkpoint: ['stages.0.norm.weight'" in str(report)
        assert {'norm.weight', 'norm.bias', 'head.weight'} == set(report.skipped)
        model.streams[0].stages[0].norm.load_state_dict(stock.norm0.state_dict())
    stock.eval(), model.eval()
    x = rand(1, 3, 40, 52)
    with torch.no_grad():
        first = stock(x)[0]
        torch.testing.assert_close(model.streams[0](x)[0], first, rtol=1e-4, atol=1e-4)


def test_imagenet_weights_of_another_size_name_the_size(tmp_path: Path) -> None:
    _stock(tmp_path / 'swin.pth', 'mmseg')
    other = TINY | dict(window=7)
    model = CMXSwin(RGBD, other, pretrained=str(tmp_path / 'swin.pth'))
    with pytest.raises(ValueError, match=r"other shapes|first_conv.*'sum'"):
        model.init_weights()
    with pytest.raises(ValueError, match=r'no Swin weights.*expected one of'):
        convert_swin(dict(a=torch.ones(1)))
    with pytest.raises(ValueError, match='at most one'):
        CMXSwin(RGBD, TINY, pretrained='a', init_cfg=dict(type='Pretrained'))


def test_three_streams_are_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r'exactly 2 streams, got 4.*streams=dict'):
        CMXSwin(FOUR, TINY)
    model = CMXSwin(FOUR, TINY, STREAMS)
    assert model.input.channels == (3, 4)
    assert len(model(rand(1, 7, 64, 64))) == 4


def test_all_valid_equals_no_validity() -> None:
    model = CMXSwin(RGBD, TINY).eval()
    x = rand(2, 4, 72, 104)
    with torch.no_grad():
        plain = model(x)
        masked = model(torch.cat([x, torch.ones(2, 2, 72, 104)], 1))
    assert all(torch.equal(p, m) for p, m in zip(plain, masked, strict=True))


@pytest.mark.parametrize('missing', [0, 1])
def test_a_missing_modality_has_no_say(missing: int) -> None:
    model = CMXSwin(RGBD, TINY).eval()
    valid = torch.ones(1, 2, 64, 64)
    valid[:, missing] = 0
    first, second = rand(1, 4, 64, 64), rand(1, 4, 64, 64)
    place = slice(0, 3) if missing == 0 else slice(3, 4)
    second[:, place] = 5 * rand(1, 4, 64, 64, seed=5)[:, place]
    with torch.no_grad():
        a, b = (model(torch.cat([x, valid], 1)) for x in (first, second))
    assert all(torch.equal(p, q) for p, q in zip(a, b, strict=True))


def test_bfloat16_autocast_trains() -> None:
    model = _segmentor(drop_path_rate=0.0)
    with torch.autocast('cpu', torch.bfloat16):
        loss = model(rand(2, 4, 64, 64), mode='tensor').float().square().mean()
    loss.backward()
    assert torch.isfinite(loss)
    assert without_gradient(model) == []


def test_base_config_builds() -> None:
    root = Path(__file__).parents[2]
    cfg = Config.fromfile(root / 'configs/_base_/models/cmx_swin-s.py').model
    cfg.data_preprocessor.modalities = cfg.backbone.modalities = RGBD
    with torch.device('meta'):
        model = MODELS.build(cfg)
    assert cfg.decode_head.in_channels == list(model.backbone.out_channels)


def test_official_state_dict_has_839_entries_for_s() -> None:
    """The official 887 count 48 constant tables of indices too; 133.22 M parameters."""
    with torch.device('meta'):
        backbone = CMXSwin(dict(rgb=dict(channels=3), x=dict(channels=3)), 'swin_s')
        head = MODELS.build(
            dict(
                type='mmseg_xmodal.CMXHead',
                in_channels=backbone.out_channels,
                num_classes=40,
            )
        )
    assert len(backbone.state_dict()) + len(head.state_dict()) == 887 - 48
    count = sum(p.numel() for m in (backbone, head) for p in m.parameters())
    assert count == 133222052
