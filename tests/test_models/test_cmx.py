"""CMX: whole model, streams, validity, placeholders, published form."""

from pathlib import Path

import pytest
import torch
from mmengine import Config

from mmseg_xmodal.models.backbones import CMX
from mmseg_xmodal.registry import MODELS
from tests.reference_forms import PUBLISHED

from .helpers import FOUR, RGBD, TINY, rand, randomise, without_gradient

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
            backbone=dict(type='mmseg_xmodal.CMX', **backbone),
            decode_head=dict(
                type='mmseg_xmodal.CMXHead',
                in_channels=TINY['embed_dims'],
                channels=16,
                num_classes=3,
                dropout_ratio=0.0,
            ),
            test_cfg=dict(mode='whole'),
        )
    )


@pytest.mark.parametrize('size', [(64, 96), (72, 104), (45, 61)])
def test_gradients_reach_every_modality(size: tuple[int, int]) -> None:
    model = CMX(RGBD, TINY, drop_path_rate=0.0)
    model.init_weights()
    x = rand(2, 4, *size).requires_grad_()
    outs = model(x)
    assert [o.shape[1] for o in outs] == list(model.out_channels)
    sum(out.square().mean() for out in outs).backward()
    assert (x.grad.abs().sum((0, 2, 3)) > 0).all()
    assert [n for n in without_gradient(model) if not n.endswith('kv.bias')] == []


@pytest.mark.parametrize('train', [True, False])
def test_equals_the_published_form(train: bool) -> None:
    """Double precision; train = BN on batch statistics, drop path off."""
    model = _segmentor(drop_path_rate=0.0).double()
    randomise(model)
    published = PUBLISHED['mmseg_xmodal.CMX'](model).double()
    model.train(train), published.train(train)
    x = rand(2, 4, 72, 88, dtype=torch.float64)
    ours, expected = model(x, mode='tensor'), published(x)
    torch.testing.assert_close(ours, expected)
    ours.square().sum().backward()
    expected.square().sum().backward()
    head = published.decode_head.linear_c3.proj.weight
    torch.testing.assert_close(model.decode_head.linear_c3.proj.weight.grad, head.grad)
    first = published.backbone.extra_patch_embed1.proj.weight
    own = model.backbone.streams[1].stages[0].patch_embed.proj.weight
    torch.testing.assert_close(own.grad, first.grad)


def test_published_form_reads_streams_of_several_modalities() -> None:
    model = _segmentor(modalities=FOUR, streams=dict(x=['dem', 'nir'], rgb=['rgb']))
    model = model.double().eval()
    randomise(model)
    published = PUBLISHED['mmseg_xmodal.CMX'](model).double().eval()
    x = rand(1, 7, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(model(x, mode='tensor'), published(x))
        valid = torch.cat([x, torch.ones(1, 4, 64, 64, dtype=x.dtype)], 1)
        torch.testing.assert_close(model(valid, mode='tensor'), published(valid))


def test_a_stream_reads_several_modalities() -> None:
    model = CMX(FOUR, TINY, STREAMS)
    assert model.input.channels == (3, 4)
    assert len(model(rand(1, 7, 64, 64))) == 4


def test_three_streams_are_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r'exactly 2 streams, got 4.*streams=.*Mean'):
        CMX(FOUR, TINY)
    model = CMX(FOUR, TINY, fusion=dict(type='mmseg_xmodal.ConcatFusion'))
    assert len(model(rand(1, 7, 64, 64))) == 4


def test_all_valid_equals_no_validity() -> None:
    model = CMX(RGBD, TINY).eval()
    x = rand(2, 4, 72, 104)
    with torch.no_grad():
        plain = model(x)
        masked = model(torch.cat([x, torch.ones(2, 2, 72, 104)], 1))
    assert all(torch.equal(p, m) for p, m in zip(plain, masked, strict=True))


@pytest.mark.parametrize('missing', [0, 1])
def test_a_missing_modality_has_no_say(missing: int) -> None:
    model = CMX(RGBD, TINY).eval()
    valid = torch.ones(1, 2, 64, 64)
    valid[:, missing] = 0
    first, second = rand(1, 4, 64, 64), rand(1, 4, 64, 64)
    place = slice(0, 3) if missing == 0 else slice(3, 4)
    second[:, place] = 5 * rand(1, 4, 64, 64, seed=5)[:, place]
    with torch.no_grad():
        a, b = (model(torch.cat([x, valid], 1)) for x in (first, second))
    assert all(torch.equal(p, q) for p, q in zip(a, b, strict=True))


@pytest.mark.parametrize('placeholder', ['zero', 'learned'])
def test_placeholder(placeholder: str) -> None:
    model = CMX(RGBD, TINY, placeholder=placeholder)
    valid = torch.ones(1, 2, 64, 64)
    valid[:, 1, :32] = 0
    x = rand(1, 4, 64, 64)
    inputs, _ = model.input(torch.cat([x, valid], 1))
    assert torch.equal(inputs[0], x[:, :3])
    assert torch.equal(inputs[1], x[:, 3:] * valid[:, 1:])
    if placeholder == 'learned':
        with torch.no_grad():
            model.input.values['depth'].fill_(0.5)
        inputs, _ = model.input(torch.cat([x, valid], 1))
        assert (inputs[1][:, :, :32] == 0.5).all()
        assert torch.equal(inputs[1][:, :, 32:], x[:, 3:, 32:])
        sum(o.sum() for o in model(torch.cat([x, valid], 1))).backward()
        assert model.input.values['depth'].grad.abs() > 0
    with pytest.raises(ValueError, match='no validity channels.*validity=True'):
        model(x)


def test_wrong_placeholder_and_streams() -> None:
    with pytest.raises(ValueError, match="placeholder='mean', expected one of"):
        CMX(RGBD, TINY, placeholder='mean')
    with pytest.raises(ValueError, match=r"streams\['x'\] is \['nir'\].*rgb.*depth"):
        CMX(RGBD, TINY, streams=dict(rgb=['rgb'], x=['nir']))


def test_wrong_channels_name_both_numbers() -> None:
    with pytest.raises(ValueError, match=r'got 3 channels.*4 \(or 6'):
        CMX(RGBD, TINY)(rand(1, 3, 64, 64))


def test_base_config_builds() -> None:
    root = Path(__file__).parents[2]
    cfg = Config.fromfile(root / 'configs/_base_/models/cmx_mit-b0.py').model
    cfg.data_preprocessor.modalities = cfg.backbone.modalities = RGBD
    cfg.decode_head.num_classes = 3
    model = MODELS.build(cfg).eval()
    inputs = [torch.zeros(5, 64, 64, dtype=torch.float32)]
    batch = model.data_preprocessor(dict(inputs=inputs), training=False)
    assert batch['inputs'].shape == (1, 6, 64, 64)
    assert model(batch['inputs'], mode='tensor').shape == (1, 3, 16, 16)


def test_bfloat16_autocast_trains() -> None:
    model = _segmentor(drop_path_rate=0.0)
    with torch.autocast('cpu', torch.bfloat16):
        loss = model(rand(2, 4, 64, 64), mode='tensor').float().square().mean()
    loss.backward()
    assert torch.isfinite(loss)
    assert [n for n in without_gradient(model) if not n.endswith('kv.bias')] == []


def test_official_state_dict_has_837_entries_for_b2() -> None:
    """Backbone and head of CMX-B2, 66.58 M parameters with 40 classes."""
    with torch.device('meta'):
        backbone = CMX(dict(rgb=dict(channels=3), x=dict(channels=3)), 'mit_b2')
        head = MODELS.build(
            dict(
                type='mmseg_xmodal.CMXHead',
                in_channels=backbone.out_channels,
                num_classes=40,
            )
        )
    assert len(backbone.state_dict()) + len(head.state_dict()) == 837
    count = sum(p.numel() for m in (backbone, head) for p in m.parameters())
    assert round(count / 1e6, 2) == 66.58
