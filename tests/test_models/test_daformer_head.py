"""DAFormerHead: equal to the published form, in a stock segmentor, its converter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mmengine.config import ConfigDict
from mmseg.registry import MODELS as MMSEG_MODELS
from torch import Tensor, nn

from mmseg_xmodal.models.converters import convert_official, recognise
from mmseg_xmodal.models.converters.daformer import DAFORMER, HRDA
from mmseg_xmodal.models.decode_heads import DAFormerHead
from mmseg_xmodal.models.layers.mit import MixTransformer
from mmseg_xmodal.registry import MODELS
from tests.reference_forms.daformer_head import PublishedDAFormerHead

from .head_cases import WIDTHS, feats, sample, total
from .helpers import TINY, rand, randomise, without_gradient

FUSIONS = ['sepaspp', 'aspp', 'conv1']
SHAPE = dict(in_channels=WIDTHS, channels=12, embed_dims=10, num_classes=5)


def _head(**changes: Any) -> DAFormerHead:
    fields: dict[str, Any] = SHAPE | dict(dropout_ratio=0.0) | changes
    head = DAFormerHead(**fields)
    randomise(head)
    return head


def _published(head: DAFormerHead, **changes: Any) -> PublishedDAFormerHead:
    published = PublishedDAFormerHead(**SHAPE | changes).to(head.conv_seg.weight)
    published.load_state_dict(head.state_dict(), strict=True)
    return published.train(head.training)


@pytest.mark.parametrize('train', [True, False])
@pytest.mark.parametrize('align_corners', [True, False])
@pytest.mark.parametrize('fusion', FUSIONS)
def test_equals_the_published_head(fusion: str, align_corners: bool, train: bool):
    changes = dict(fusion=fusion, align_corners=align_corners)
    ours = _head(**changes).double().train(train)
    published = _published(ours, **changes)
    # 45 x 59 pixels: no level is twice the next.
    a, b = (feats((45, 59), dtype=torch.float64, grad=True) for _ in range(2))
    out, expected = ours(a), published(b)
    torch.testing.assert_close(out, expected)
    weight = rand(*out.shape, seed=3, dtype=torch.float64)
    (out * weight).sum().backward()
    (expected * weight).sum().backward()
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x.grad, y.grad)
    theirs = dict(published.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs[name].grad, msg=name)
    if not train:  # before a BN in training mode a bias has no gradient
        assert without_gradient(ours) == []
    torch.testing.assert_close(
        dict(ours.named_buffers()), dict(published.named_buffers())
    )


@pytest.mark.parametrize('fusion', FUSIONS)
def test_follows_every_change_of_weights(fusion: str) -> None:
    ours = _head(fusion=fusion).double().eval()
    maps = feats(dtype=torch.float64)

    def check() -> None:
        with torch.no_grad():
            published = _published(ours, fusion=fusion)
            torch.testing.assert_close(ours(maps), published(maps))

    check()
    ours.embed_layers[1].proj.weight.data.mul_(-2)
    check()
    for module in ours.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.add_(1)
            module.weight.data.mul_(3)
    check()
    ours.load_state_dict({k: v / 2 for k, v in ours.state_dict().items()})
    check()


@pytest.mark.parametrize('fusion', FUSIONS)
def test_hooked_layers_are_called(fusion: str) -> None:
    """Adapters (LoRA) hook or replace layers: their weights are not all of them."""
    ours = _head(fusion=fusion).eval()
    maps, called = feats(), []
    expected = ours(maps)
    convs = [m for m in ours.modules() if isinstance(m, nn.Conv2d)]
    for conv in convs:
        conv.register_forward_hook(lambda m, *_: called.append(m))
    torch.testing.assert_close(ours(maps), expected, rtol=1e-4, atol=1e-5)
    assert {id(m) for m in called} == {id(m) for m in convs}


@pytest.mark.parametrize('fusion', FUSIONS)
def test_half_precision(fusion: str) -> None:
    head, maps = _head(fusion=fusion).eval(), feats(grad=True)
    full = head(maps).detach()
    with torch.autocast('cpu', torch.bfloat16):
        half = head(maps)
    half.float().square().sum().backward()
    assert without_gradient(head) == []
    assert all(torch.isfinite(x.grad).all() for x in maps)
    # 8 bits of mantissa through three layers and a norm.
    assert (half.float() - full).abs().mean() < 0.03 * full.abs().mean()


@pytest.mark.parametrize('size', [(4, 4), (33, 130), (64, 40)])
def test_any_size(size: tuple[int, int]) -> None:
    head = _head().eval()
    rows, columns = (-(-side // 4) for side in size)
    assert head(feats(size, batch=1)).shape == (1, 5, rows, columns)


def test_levels_norm_and_dropout() -> None:
    head = _head(in_channels=[12, 20], in_index=[1, 3]).eval()
    assert head(feats()).shape[2:] == feats()[1].shape[2:]
    group = _head(norm_cfg=dict(type='GN', num_groups=2))
    group(feats()).square().sum().backward()
    assert without_gradient(group) == []
    drop = _head(dropout_ratio=0.5)
    assert not torch.equal(drop(feats()), drop(feats()))
    drop.eval()
    assert torch.equal(drop(feats()), drop(feats()))


def test_initialises_as_published() -> None:
    head = DAFormerHead(WIDTHS, channels=64, num_classes=200)
    head.init_weights()
    assert abs(head.conv_seg.weight.std().item() - 0.01) < 1e-3
    assert head.embed_layers[0].proj.out_features == 256


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="fusion='isa'.*sepaspp"):
        _head(fusion='isa')
    with pytest.raises(ValueError, match='in_index=.0, 1., expected one index'):
        _head(in_index=[0, 1])


def test_inside_a_stock_segmentor() -> None:
    head = SHAPE | dict(in_channels=list(TINY['embed_dims']))
    cfg = dict(
        type='EncoderDecoder',
        backbone=dict(
            type='mmseg_xmodal.MixTransformer',
            variant=TINY | dict(sr_ratios=(2, 2, 1, 1)),
        ),
        decode_head=dict(type='mmseg_xmodal.DAFormerHead', **head),
        test_cfg=ConfigDict(mode='slide', crop_size=(32, 32), stride=(16, 16)),
    )
    model = MMSEG_MODELS.build(cfg).eval()
    randomise(model)
    samples = [sample((45, 59), gt_sem_seg=torch.randint(0, 5, (1, 45, 59)))] * 2
    inputs = rand(2, 3, 45, 59)
    total(model(inputs, samples, mode='loss')).backward()
    assert without_gradient(model) == []
    with torch.no_grad():
        found = model(inputs, samples, mode='predict')
    assert found[1].seg_logits.data.shape == (5, 45, 59)


def _official_mit() -> dict[str, Tensor]:
    """Weights of a MiT-B0 under the keys of SegFormer."""
    state = {}
    for key, value in MixTransformer('mit_b0').state_dict().items():
        _, stage, part, rest = key.split('.', 3)
        name = part.removesuffix('s') + str(int(stage) + 1)
        rest = rest.replace('mlp.dwconv.', 'mlp.dwconv.dwconv.')
        state[f'backbone.{name}.{rest}'] = value
    return state


def _checkpoint(prefix: str = '', **head: Any) -> dict[str, Tensor]:
    """Weights as the official code saves them: a student, a teacher, an anchor."""
    state = _official_mit()
    own = PublishedDAFormerHead([32, 64, 160, 256], 12, 10, 5, **head)
    parts = {f'decode_head.{prefix}{k}': v for k, v in own.state_dict().items()}
    student = {f'model.{k}': v for k, v in (state | parts).items()}
    teacher = {f'ema_model.{k}': v + 1 for k, v in (state | parts).items()}
    return student | teacher | {f'imnet_model.{k}': v for k, v in state.items()}


@pytest.mark.parametrize('fusion', FUSIONS)
def test_official_checkpoints(fusion: str) -> None:
    state = _checkpoint(fusion=fusion)
    config = DAFORMER.config(state)
    assert config['decode_head']['fusion'] == fusion
    model = MODELS.build(config)
    model.load_state_dict(convert_official(DAFORMER, state), strict=True)
    published = PublishedDAFormerHead([32, 64, 160, 256], 12, 10, 5, fusion=fusion)
    own = {
        k.removeprefix('model.decode_head.'): v
        for k, v in state.items()
        if k.startswith('model.decode_head.')
    }
    published.load_state_dict(own, strict=True)
    sizes = {32: 8, 64: 4, 160: 2, 256: 1}
    maps = [rand(1, c, side, side) for c, side in sizes.items()]
    with torch.no_grad():
        torch.testing.assert_close(
            model.eval().decode_head(maps),
            published.eval()(maps),
            rtol=1e-4,
            atol=1e-5,
        )
    plain = {k.removeprefix('model.'): v for k, v in state.items() if 'ema' not in k}
    plain = {k: v for k, v in plain.items() if 'imnet' not in k}
    assert convert_official(DAFORMER, plain).keys() == model.state_dict().keys()


def test_hrda_checkpoints() -> None:
    state = _checkpoint('head.') | _checkpoint('scale_attention.', fusion='conv1')
    model = MODELS.build(HRDA.config(state))
    model.load_state_dict(convert_official(HRDA, state), strict=True)
    assert model.decode_head.scale_attention.out_channels == 5
    assert recognise(state) == [HRDA]
    with pytest.raises(
        ValueError, match='no official DAFormer.*looks like official HR'
    ):
        convert_official(DAFORMER, state)


def test_bad_checkpoints() -> None:
    state = _checkpoint()
    with pytest.raises(ValueError, match='no official HRDA.*HRDAHead not found'):
        convert_official(HRDA, state)
    del state['model.decode_head.fuse_layer.bottleneck.bn.bias']
    with pytest.raises(ValueError, match=r'1 keys are missing.*bottleneck\.bn\.bias'):
        convert_official(DAFORMER, state)
    marks = [k for k in state if 'aspp_modules.1' in k]
    with pytest.raises(ValueError, match='none of the fusions'):
        convert_official(DAFORMER, {k: v for k, v in state.items() if k not in marks})
    assert DAFORMER not in recognise({'backbone.patch_embed1.proj.weight': rand(1)})
