"""Encoders of timm: their own numbers, any size, exchange, tuning, weights."""

import copy
import logging

import pytest
import torch
from torch import nn

from mmseg_xmodal.models.backbones import MultiStreamBackbone, TimmStream
from mmseg_xmodal.models.layers.tuning import is_addition
from mmseg_xmodal.registry import MODELS

from .helpers import RGBD, rand, randomise, require, without_gradient

require('timm')
import timm  # noqa: E402

VIT = dict(embed_dim=16, depth=3, num_heads=2)
SWIN = dict(embed_dim=8, depths=(2, 1, 1, 1), num_heads=(1, 2, 2, 4), img_size=64)
SWIN.update(window_size=4)
PVT = dict(depths=(1, 1, 1, 1), embed_dims=(8, 16, 24, 32), num_heads=(1, 2, 3, 4))
STAGED = dict(
    convnext=('convnext_atto', dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32))),
    swin=('swin_tiny_patch4_window7_224', SWIN),
    swinv2=('swinv2_tiny_window8_256', SWIN),
    pvt=('pvt_v2_b0', PVT),
)
PLAIN = dict(
    dinov2=('vit_small_patch14_reg4_dinov2', dict(VIT, img_size=56)),
    dinov3=('vit_small_patch16_dinov3', dict(VIT, img_size=64)),
    siglip=('vit_base_patch16_siglip_224', dict(VIT, img_size=64)),
)
FAMILIES = STAGED | PLAIN
BEIT = ('beit_base_patch16_224', dict(VIT, img_size=64))
RESNET = ('test_resnet', {})


def stream(family: tuple[str, dict], **kwargs) -> TimmStream:
    kwargs = dict(pyramid_channels=8) | kwargs
    return TimmStream(family[0], family[1], **kwargs)


def config(family: tuple[str, dict], **kwargs) -> dict:
    kwargs = dict(pyramid_channels=8) | kwargs
    name = 'mmseg_xmodal.TimmStream'
    return dict(type=name, model=family[0], model_args=family[1], **kwargs)


def saved(family: tuple[str, dict], path, **changes) -> tuple[nn.Module, str]:
    """A model as timm's users have it, and a file of its weights."""
    model = timm.create_model(family[0], **(family[1] | changes))
    randomise(model)
    torch.save(model.state_dict(), path)
    return model.eval(), str(path)


class TakeFirst(nn.Module):
    """Exchanges nothing."""

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


@pytest.mark.parametrize('name', FAMILIES)
def test_the_maps_are_those_of_timm(name: str, tmp_path) -> None:
    reference, path = saved(FAMILIES[name], tmp_path / 'w.pth')
    ours = stream(
        FAMILIES[name], level_norm=False, pyramid_channels=None, pretrained=path
    ).eval()
    ours.init_weights()
    size = reference.pretrained_cfg['input_size'][1:]
    size = (64, 64) if name in ('swin', 'swinv2', 'siglip') else size
    size = {'dinov2': (56, 56), 'dinov3': (64, 64)}.get(name, size)
    x = rand(1, 3, *size)
    with torch.no_grad():
        outs = ours(x)
        expected = reference.forward_intermediates(
            x, norm=name in PLAIN, intermediates_only=True
        )
    for out, level in zip(outs, expected[-len(outs) :], strict=True):
        torch.testing.assert_close(out, level)


@pytest.mark.parametrize('name', FAMILIES)
def test_any_size(name: str) -> None:
    model = stream(FAMILIES[name], in_channels=2)
    for size in [(1, 3), (45, 61), (64, 96)]:
        outs = model(rand(1, 2, *size))
        assert model.strides == (4, 8, 16, 32)
        assert [tuple(out.shape) for out in outs] == [
            (1, width, -(-size[0] // stride), -(-size[1] // stride))
            for width, stride in zip(model.out_channels, model.strides, strict=True)
        ]
        assert all(out.isfinite().all() for out in outs)


@pytest.mark.parametrize('name', FAMILIES)
def test_gradients_reach_every_channel_and_parameter(name: str) -> None:
    model = stream(FAMILIES[name], in_channels=4)
    if name == 'swinv2':
        randomise(model)  # timm starts its norms behind the residual branches at 0
    x = rand(2, 4, 64, 96).requires_grad_()
    sum((o * rand(*o.shape, seed=i)).sum() for i, o in enumerate(model(x))).backward()
    assert (x.grad.abs().sum((0, 2, 3)) > 0).all()
    # DDP without find_unused_parameters needs every one of them; a constant added to
    # all keys changes nothing.
    still = [n for n, p in model.named_parameters() if p.grad is None]
    # Some versions of timm leave the norm of the classifier in.
    assert [n for n in still if not n.startswith('encoder.head.norm')] == []
    assert not any(p.requires_grad and p.grad is None for p in model.parameters())
    assert [n for n in without_gradient(model) if 'bias' not in n] == []


@pytest.mark.parametrize('name', STAGED)
def test_exchange_between_the_stages(name: str) -> None:
    cfg = config(STAGED[name])
    same = MultiStreamBackbone(RGBD, cfg, dict(type='mmseg_xmodal.TakeFirst')).eval()
    zeros = MultiStreamBackbone(RGBD, cfg, dict(type='mmseg_xmodal.Scale')).eval()
    for size in [(64, 64), (45, 61)]:
        x = rand(1, 4, *size)
        with torch.no_grad():
            outs, expected = same(x), same.streams[0](x[:, :3])
        assert len(outs) == len(expected) == 4
        for out, reference in zip(outs, expected, strict=True):
            torch.testing.assert_close(out, reference)
        with torch.no_grad():
            outs, plain = zeros(x), zeros.streams[1](x[:, 3:])
        assert torch.equal(outs[0], plain[0])
        assert not torch.allclose(outs[1], plain[1])


def test_exchange_without_norms_replaces_the_map() -> None:
    model = stream(STAGED['convnext'], level_norm=False).eval()
    x, other = rand(1, 3, 64, 64), rand(1, 3, 64, 64, seed=1)
    with torch.no_grad():
        expected = model(other)
        walker = model.forward_stages(x)
        next(walker)
        level = walker.send(expected[0])
    torch.testing.assert_close(level, expected[1])


def test_what_cannot_exchange_says_so() -> None:
    for family in (PLAIN['dinov2'], RESNET):
        reason = 'is a plain ViT' if 'vit' in family[0] else "is none of.*'ConvNeXt'"
        with pytest.raises(
            ValueError, match=f'TimmStream cannot.*{reason}.*exchange=F'
        ):
            MultiStreamBackbone(RGBD, config(family))
        model = MultiStreamBackbone(RGBD, config(family), exchange=False)
        assert [o.shape[2] for o in model(rand(2, 4, 64, 64))] == [16, 8, 4, 2]


def test_blocks_of_a_plain_vit() -> None:
    family = PLAIN['siglip']
    model = stream(family, out_indices=(0, 1), pyramid_channels=None)
    assert len(model.encoder.blocks) == 2  # the third would get no gradient
    assert model.strides == (16, 16)
    assert [tuple(o.shape[1:]) for o in model(rand(1, 3, 32, 48))] == [(16, 2, 3)] * 2
    four = stream((family[0], dict(family[1], depth=4)), out_indices=range(4))
    assert not four.pyramid.single
    with pytest.raises(ValueError, match='got 2 maps.*Change out_indices'):
        stream(family, out_indices=(0, 1))
    with pytest.raises(ValueError, match=r'out_indices=\[2, 5\].*0 to 2.*has 3 levels'):
        stream(family, out_indices=[2, 5])


def test_fixed_size() -> None:
    model = stream(BEIT)
    assert model.img_size == (64, 64)
    assert [o.shape[2] for o in model(rand(1, 3, 64, 64))] == [16, 8, 4, 2]
    with pytest.raises(
        ValueError, match=r'32x64, expected 64x64.*img_size in model_ar'
    ):
        model(rand(1, 3, 32, 64))
    wide = dict(BEIT[1], img_size=(32, 96))
    both = MultiStreamBackbone(RGBD, config((BEIT[0], wide)), exchange=False)
    assert [o.shape[3] for o in both(rand(1, 4, 32, 96))] == [24, 12, 6, 3]


@pytest.mark.parametrize('family', [STAGED['swin'], PLAIN['dinov2'], RESNET])
def test_frozen(family: tuple[str, dict]) -> None:
    model = stream(family, tuning='frozen', in_channels=3)
    assert not any(module.training for module in model.encoder.modules())
    model.train()
    assert model.training
    assert not any(module.training for module in model.encoder.modules())
    before = copy.deepcopy(model.encoder.state_dict())
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    outs = model(rand(2, 3, 32, 32))
    sum((o * rand(*o.shape, seed=i)).sum() for i, o in enumerate(outs)).backward()
    optimiser.step()
    assert all(p.grad is None for p in model.encoder.parameters())
    after = model.encoder.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    rest = model.pyramid if model.pyramid is not None else model.norms
    assert without_gradient(rest) == []
    assert all(p.grad is not None for p in rest.parameters())
    assert not model.eval().training


def test_lora_starts_as_the_encoder_and_trains_the_additions(tmp_path) -> None:
    require('peft')
    _, path = saved(PLAIN['dinov2'], tmp_path / 'w.pth')
    pair = []
    for tuning in ('full', dict(mode='lora', rank=4)):
        torch.manual_seed(0)
        model = stream(PLAIN['dinov2'], tuning=tuning, pretrained=path)
        model.init_weights()
        model.pyramid.load_state_dict((pair or [model])[0].pyramid.state_dict())
        pair.append(model.train())
    plain, lora = pair
    # What is reported is what the file had.
    assert lora.init_report.loaded == plain.init_report.loaded
    x = rand(2, 3, 42, 56)
    for a, b in zip(plain(x), lora(x), strict=True):
        assert torch.equal(a, b)
    names = [n for n, p in lora.encoder.named_parameters() if p.requires_grad]
    assert names
    assert all(is_addition(name) for name in names)
    assert {n.split('.')[3] for n in names} == {'qkv', 'proj'}
    assert lora.encoder.blocks[0].attn.qkv.lora_A['default'].weight.shape[0] == 4
    sum(o.square().sum() for o in lora(x)).backward()
    trained = {n for n, p in lora.encoder.named_parameters() if p.grad is not None}
    assert trained == set(names)


@pytest.mark.parametrize('tuning', ['frozen', 'lora', 'full'])
def test_resume_from_a_checkpoint(tuning: str, tmp_path) -> None:
    if tuning == 'lora':
        require('peft')

    def step(model, optimiser):
        optimiser.zero_grad()
        sum(o.square().mean() for o in model(rand(2, 3, 28, 28))).backward()
        optimiser.step()

    def build(seed):
        torch.manual_seed(seed)
        model = stream(PLAIN['dinov2'], tuning=tuning).train()
        return model, torch.optim.AdamW(model.parameters(), 1e-2)

    model, optimiser = build(0)
    start = copy.deepcopy(model.state_dict())
    step(model, optimiser)
    torch.save((model.state_dict(), optimiser.state_dict()), tmp_path / 'a.pth')
    step(model, optimiser)
    other, second = build(1)
    weights, state = torch.load(tmp_path / 'a.pth', weights_only=True)
    other.load_state_dict(weights, strict=True)
    second.load_state_dict(state)
    step(other, second)
    final = other.state_dict()
    for key, value in model.state_dict().items():
        assert torch.equal(value, final[key]), key
    moved = {k for k, v in start.items() if not torch.equal(v, final[k])}
    assert any(key.startswith('pyramid.') for key in moved)
    inside = {key for key in moved if key.startswith('encoder.')}
    assert all(is_addition(k) for k in inside) or tuning == 'full'
    assert bool(inside) == (tuning != 'frozen')


def test_lora_targets() -> None:
    require('peft')
    # BEiT uses the weight of qkv without calling it: an addition would be unheard.
    model = stream(BEIT, tuning='lora')
    names = [n for n, p in model.encoder.named_parameters() if p.requires_grad]
    assert names
    assert not any('qkv' in name for name in names)
    with pytest.raises(ValueError, match=r'attn.qkv.*would have no effect'):
        stream(BEIT, tuning=dict(mode='lora', targets=['attn.qkv']))
    with pytest.raises(ValueError, match=r"targets=\('query',\).*blocks.0.attn.proj"):
        stream(PLAIN['dinov2'], tuning=dict(mode='lora', targets=['query']))
    chosen = stream(PLAIN['dinov2'], tuning=dict(mode='lora', targets='mlp.fc1'))
    names = [n for n, p in chosen.encoder.named_parameters() if p.requires_grad]
    assert {n.split('.')[3] for n in names} == {'fc1'}
    # No attention: all linear layers, as convolutions here.
    convs = stream(STAGED['convnext'], tuning='lora')
    names = [n for n, p in convs.encoder.named_parameters() if p.requires_grad]
    assert {n.split('.')[5] for n in names} == {'fc1', 'fc2'}
    sum(o.square().sum() for o in convs(rand(2, 3, 32, 32))).backward()
    assert all(p.grad is not None for p in convs.parameters() if p.requires_grad)


def test_lora_keeps_batch_statistics() -> None:
    require('peft')
    targets = 'layer1.0.conv1'
    model = stream(RESNET, tuning=dict(mode='lora', targets=targets)).train()
    before = model.encoder.bn1.running_mean.clone()
    model(rand(2, 3, 64, 64))
    assert torch.equal(model.encoder.bn1.running_mean, before)
    assert model.encoder.layer1[0].conv1.training


def test_parts_that_train_besides() -> None:
    tuning = dict(mode='frozen', also=['patch_embed', 'norm.'])
    model = stream(PLAIN['dinov2'], tuning=tuning, in_channels=1)
    names = {n for n, p in model.encoder.named_parameters() if p.requires_grad}
    assert names == {
        'patch_embed.proj.weight',
        'patch_embed.proj.bias',
        'norm.weight',
        'norm.bias',
    }
    with pytest.raises(ValueError, match=r"also=\['stem'\].*begins with \['stem'\]"):
        stream(PLAIN['dinov2'], tuning=dict(mode='frozen', also='stem'))


def test_tuning_is_checked_and_logged(caplog) -> None:
    with pytest.raises(ValueError, match=r"mode='half', expected one of \('full', 'fr"):
        stream(PLAIN['dinov2'], tuning='half')
    with pytest.raises(ValueError, match=r"keys \['mode', 'r'\].*'rank'"):
        stream(PLAIN['dinov2'], tuning=dict(mode='lora', r=4))
    with pytest.raises(ValueError, match='rank=0.*rank >= 1'):
        stream(PLAIN['dinov2'], tuning=dict(mode='lora', rank=0))
    from mmengine.logging import MMLogger

    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    try:
        with caplog.at_level(logging.INFO):
            model = stream(PLAIN['dinov2'], tuning='frozen')
    finally:
        logger.removeHandler(caplog.handler)
    total = sum(p.numel() for p in model.encoder.parameters())
    assert f'tuning frozen, 0 of {total:,} parameters' in caplog.text


def test_weights_are_loaded_strictly(tmp_path) -> None:
    family = STAGED['convnext']
    source, path = saved(family, tmp_path / 'w.pth')
    with pytest.raises(ValueError, match=r"1 input.*expected one of.*first_conv='sum'"):
        stream(family, in_channels=1, pretrained=path).init_weights()
    model = stream(
        family, in_channels=1, pretrained=dict(checkpoint=path, first_conv='sum')
    )
    model.init_weights()
    report = model.init_report
    assert report.adapted == {'encoder': "3 to 1 channels by 'sum'"}
    assert report.loaded == {'encoder': len(model.encoder.state_dict())}
    own = model.encoder.state_dict()
    assert set(report.skipped) == {key for key in source.state_dict() if key not in own}
    assert {'head.fc.weight', 'head.fc.bias'} <= set(report.skipped)
    assert torch.equal(
        model.encoder.stem[0].weight, source.stem[0].weight.sum(1, keepdim=True)
    )
    deeper = (family[0], dict(family[1], depths=(1, 1, 2, 1)))
    with pytest.raises(ValueError, match=r'lacks.*stages\.2\.blocks\.1'):
        stream(deeper, pretrained=path).init_weights()
    _, path = saved(deeper, tmp_path / 'deep.pth')
    with pytest.raises(ValueError, match=r'tensors that the backbone lacks.*s\.2\.bl'):
        stream(family, pretrained=path).init_weights()
    _, path = saved((family[0], dict(family[1], dims=(8, 16, 24, 40))), tmp_path / 'd')
    with pytest.raises(ValueError, match=r'got \(40,.*expected \(32,'):
        stream(family, pretrained=path).init_weights()


def test_safetensors(tmp_path) -> None:
    require('safetensors.torch')
    from safetensors.torch import save_file

    source, _ = saved(PLAIN['siglip'], tmp_path / 'w.pth')
    path = str(tmp_path / 'model.safetensors')
    save_file(source.state_dict(), path)
    model = stream(PLAIN['siglip'], pretrained=path)
    model.init_weights()
    own = model.encoder.state_dict()
    assert all(
        torch.equal(own[k], v) for k, v in source.state_dict().items() if k in own
    )
    assert any(key.startswith('attn_pool.') for key in model.init_report.skipped)
    (tmp_path / 'model.safetensors').write_bytes(b'no such file')
    with pytest.raises(ValueError, match='cannot be read as a safetensors file'):
        stream(PLAIN['siglip'], pretrained=path).init_weights()


def test_position_embeddings_are_resampled_and_reported(tmp_path) -> None:
    _, path = saved(PLAIN['dinov2'], tmp_path / 'w.pth', img_size=84)
    model = stream(PLAIN['dinov2'], pretrained=path)
    model.init_weights()
    assert 'pos_embed (1, 36, 16) to (1, 16, 16)' in model.init_report.layout
    reference = timm.create_model(PLAIN['dinov2'][0], **PLAIN['dinov2'][1])
    timm.models.load_checkpoint(
        reference, path, filter_fn=timm.models.vision_transformer.checkpoint_filter_fn
    )
    assert torch.equal(model.encoder.pos_embed, reference.pos_embed)


@pytest.mark.parametrize('tuning', ['full', 'lora'])
def test_one_checkpoint_for_all_streams(tuning: str, tmp_path) -> None:
    if tuning == 'lora':
        require('peft')
    source, path = saved(STAGED['swin'], tmp_path / 'w.pth')
    model = MultiStreamBackbone(
        RGBD,
        config(STAGED['swin'], tuning=tuning),
        pretrained=dict(checkpoint=path, first_conv='sum'),
    )
    model.init_weights()
    assert model.init_report.adapted == {'depth': "3 to 1 channels by 'sum'"}
    assert model.init_report.loaded.keys() == {'rgb', 'depth'}
    grey = rand(1, 1, 64, 64)
    with torch.no_grad():
        a = model.streams[0].eval()(grey.repeat(1, 3, 1, 1))
        b = model.streams[1].eval()(grey)
    for one, other in zip(a, b, strict=True):
        torch.testing.assert_close(one, other)
    mixed = dict(
        rgb=config(STAGED['swin']), depth=config(STAGED['swin'], tuning='frozen')
    )
    with pytest.raises(ValueError, match=r"'frozen'.*pretrained in each"):
        MultiStreamBackbone(RGBD, mixed, pretrained=path).init_weights()


def test_a_random_first_convolution_is_not_frozen(tmp_path) -> None:
    _, path = saved(STAGED['convnext'], tmp_path / 'w.pth')
    pretrained = dict(checkpoint=path, first_conv='random')
    kwargs = dict(in_channels=4, pretrained=pretrained)
    with pytest.raises(ValueError, match=r"'stem.0'.*random.*also=\['stem.0'\]"):
        stream(STAGED['convnext'], tuning='frozen', **kwargs).init_weights()
    tuning = dict(mode='frozen', also=['stem.0'])
    stream(STAGED['convnext'], tuning=tuning, **kwargs).init_weights()


def test_nothing_comes_from_the_network(tmp_path, monkeypatch) -> None:
    import socket

    def refuse(*args, **kwargs):
        raise AssertionError('the network was asked')

    monkeypatch.setattr(socket, 'getaddrinfo', refuse)
    for path in ('https://example.com/a.pth', 'timm/convnext_atto.d2_in1k'):
        with pytest.raises(FileNotFoundError, match='no local path.*hf download timm/'):
            stream(STAGED['convnext'], pretrained=path).init_weights()
    with pytest.raises(ValueError, match="no model 'hf_hub:timm/x'.*Names of a hub"):
        TimmStream('hf_hub:timm/x')
    with pytest.raises(ValueError, match="'convnext_ato'.*'convnext_atto'"):
        TimmStream('convnext_ato')
    for key, remedy in dict(in_chans='in_channels', pretrained='pretrained').items():
        with pytest.raises(ValueError, match=f"'{key}'; use {remedy} of the backbone"):
            TimmStream('convnext_atto', {key: 1})
    with pytest.raises(ValueError, match="'num_classes'; leave it out"):
        TimmStream('convnext_atto', dict(num_classes=4))


def test_missing_package_names_the_command(monkeypatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, 'timm', None)
    with pytest.raises(ImportError, match=r"pip install 'mmseg_xmodal\[encoders\]'"):
        TimmStream('convnext_atto')


def test_broken_torchvision_names_the_remedy(monkeypatch) -> None:
    import importlib

    def broken(name):
        raise RuntimeError('operator torchvision::nms does not exist')

    monkeypatch.setattr(importlib, 'import_module', broken)
    with pytest.raises(ImportError, match='torchvision --index-url .*whl/cpu'):
        TimmStream('convnext_atto')


def test_in_a_stock_encoder_decoder() -> None:
    head = dict(type='FCNHead', in_channels=32, in_index=3, channels=8, num_classes=3)
    head.update(norm_cfg=dict(type='BN'))
    model = MODELS.build(
        dict(
            type='mmseg.EncoderDecoder',
            backbone=config(STAGED['convnext'], tuning='frozen'),
            decode_head=dict(head, type='mmseg.FCNHead'),
            train_cfg=dict(),
            test_cfg=dict(mode='whole'),
        )
    )
    model.init_weights()
    model.train()
    assert not model.backbone.encoder.training
    assert model(rand(2, 3, 64, 64), mode='tensor').shape == (2, 3, 2, 2)


@pytest.mark.parametrize('name', ['swin', 'dinov2'])
def test_other_ways_to_run(name: str) -> None:
    model = stream(FAMILIES[name]).eval()
    x = rand(1, 3, 45, 61)
    with torch.no_grad():
        expected = model(x)
        copied = copy.deepcopy(model)(x)
        last = model.to(memory_format=torch.channels_last)(
            x.to(memory_format=torch.channels_last)
        )
        with torch.autocast('cpu', torch.bfloat16):
            rounded = model(x)
    for i, reference in enumerate(expected):
        assert torch.equal(copied[i], reference)
        torch.testing.assert_close(last[i], reference, rtol=1e-4, atol=1e-5)
        # bfloat16 has 8 bits: the maps are normed, so of size 1.
        assert (rounded[i].float() - reference).abs().mean() < 0.05


def test_compiled() -> None:
    model = stream(PLAIN['dinov3']).eval()
    x = rand(1, 3, 45, 61)
    with torch.no_grad():
        pairs = zip(torch.compile(model, backend='eager')(x), model(x), strict=True)
        for compiled, expected in pairs:
            torch.testing.assert_close(compiled, expected)
