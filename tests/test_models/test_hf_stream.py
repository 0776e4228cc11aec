"""Encoders of transformers: their own numbers, any size, tuning, local folders."""

import copy
import json

import pytest
import torch

from mmseg_xmodal.models.backbones import HFStream, MultiStreamBackbone
from mmseg_xmodal.models.layers.tuning import is_addition
from mmseg_xmodal.registry import MODELS

from .helpers import RGBD, rand, randomise, require, without_gradient

require('transformers', 'safetensors')
import transformers  # noqa: E402

VIT = dict(hidden_size=16, num_hidden_layers=3, num_attention_heads=2)
VIT.update(intermediate_size=32)
STAGES = dict(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1])
SWIN = dict(embed_dim=8, depths=[2, 1, 1, 1], num_heads=[1, 2, 2, 4], window_size=4)
FAMILIES = dict(
    dinov2=dict(VIT, image_size=56, patch_size=14),
    dinov3_vit=dict(VIT, image_size=64, patch_size=16, num_register_tokens=2),
    siglip_vision_model=dict(VIT, image_size=64, patch_size=16),
    clip_vision_model=dict(VIT, image_size=64, patch_size=16),
    vit=dict(VIT, image_size=64, patch_size=16),
    convnext=STAGES,
    swin=dict(SWIN, image_size=64),
)
FAMILIES = {
    kind: dict(fields, model_type=kind)
    for kind, fields in FAMILIES.items()
    if kind in transformers.CONFIG_MAPPING
}
PLAIN = [kind for kind in FAMILIES if kind not in ('convnext', 'swin')]


def stream(kind: str, **kwargs) -> HFStream:
    return HFStream(FAMILIES[kind], **(dict(pyramid_channels=8) | kwargs))


def config(kind: str, **kwargs) -> dict:
    kwargs = dict(pyramid_channels=8) | kwargs
    return dict(type='mmseg_xmodal.HFStream', config=FAMILIES[kind], **kwargs)


def folder(kind: str, path, **changes) -> tuple[torch.nn.Module, str]:
    """A model as the library's users have it, and its folder."""
    fields = FAMILIES[kind] | changes
    kwargs = {k: v for k, v in fields.items() if k != 'model_type'}
    model = transformers.AutoModel.from_config(
        transformers.AutoConfig.for_model(fields['model_type'], **kwargs)
    )
    randomise(model)
    model.save_pretrained(path)
    return model.eval(), str(path)


@pytest.mark.parametrize('kind', PLAIN)
def test_the_last_map_is_the_last_hidden_state(kind: str, tmp_path) -> None:
    reference, path = folder(kind, tmp_path)
    ours = stream(kind, pyramid_channels=None, pretrained=path).eval()
    ours.init_weights()
    size = (56, 56) if kind == 'dinov2' else (64, 64)
    x = rand(1, 3, *size)
    with torch.no_grad():
        (out,) = ours(x)
        tokens = reference(x).last_hidden_state[:, -16:]
    if kind == 'clip_vision_model':
        # CLIP norms its class token only; the map is normed in the same way.
        with torch.no_grad():
            tokens = reference.post_layernorm(tokens)
    expected = tokens.transpose(1, 2).unflatten(2, (4, 4))
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


def test_the_maps_are_those_of_convnext(tmp_path) -> None:
    reference, path = folder('convnext', tmp_path)
    ours = stream('convnext', pretrained=path).eval()
    ours.init_weights()
    x = rand(1, 3, 64, 96)
    with torch.no_grad():
        outs = ours(x)
        levels = reference(x, output_hidden_states=True).hidden_states[1:]
    for out, level in zip(outs, levels, strict=True):
        # The backbone norms each level; a new norm has weight 1 and bias 0.
        norm = torch.nn.functional.layer_norm(
            level.movedim(1, -1), (level.shape[1],), eps=1e-6
        )
        torch.testing.assert_close(out, norm.movedim(-1, 1), rtol=1e-4, atol=1e-4)
    report, own = ours.init_report, ours.encoder.state_dict()
    assert set(report.new) == {key for key in own if 'hidden_states_norms' in key}
    assert report.loaded == {'encoder': len(own) - 8}
    assert 'New, not in the checkpoint:' in str(report)


@pytest.mark.parametrize('kind', FAMILIES)
def test_any_size(kind: str) -> None:
    model = stream(kind, in_channels=2)
    for size in [(1, 3), (45, 61), (64, 96)]:
        outs = model(rand(1, 2, *size))
        assert model.strides == (4, 8, 16, 32)
        assert [tuple(out.shape) for out in outs] == [
            (1, width, -(-size[0] // stride), -(-size[1] // stride))
            for width, stride in zip(model.out_channels, model.strides, strict=True)
        ]
        assert all(out.isfinite().all() for out in outs)


@pytest.mark.parametrize('kind', FAMILIES)
def test_gradients_reach_every_channel_and_parameter(kind: str) -> None:
    model = stream(kind, in_channels=4).train()
    x = rand(2, 4, 64, 96).requires_grad_()
    sum((o * rand(*o.shape, seed=i)).sum() for i, o in enumerate(model(x))).backward()
    assert (x.grad.abs().sum((0, 2, 3)) > 0).all()
    unreached = [
        n for n, p in model.named_parameters() if p.requires_grad and p.grad is None
    ]
    assert unreached == []
    assert [n for n in without_gradient(model) if 'bias' not in n] == []
    # What no map depends on does not train: DDP would wait for its gradient.
    still = [n for n, p in model.named_parameters() if not p.requires_grad]
    assert all('mask_token' in n or 'swin.layernorm' in n for n in still)


@pytest.mark.parametrize('kind', ['dinov2', 'swin'])
def test_streams_without_exchange(kind: str) -> None:
    with pytest.raises(ValueError, match='HFStream cannot exchange.*exchange=False'):
        MultiStreamBackbone(RGBD, config(kind))
    model = MultiStreamBackbone(RGBD, config(kind), exchange=False)
    outs = model(rand(2, 4, 45, 61))
    assert [tuple(o.shape[2:]) for o in outs] == [(12, 16), (6, 8), (3, 4), (2, 2)]
    assert [o.shape[1] for o in outs] == list(model.out_channels)


@pytest.mark.parametrize('kind', ['dinov2', 'siglip_vision_model'])
def test_blocks_of_a_plain_vit(kind: str) -> None:
    model = stream(kind, out_indices=(0, 1), pyramid_channels=None).eval()
    names = {name for name, _ in model.encoder.named_parameters()}
    assert any('.1.' in name for name in names)
    assert not any('.2.' in name for name in names)  # it would get no gradient
    size = (28, 42) if kind == 'dinov2' else (32, 48)
    x = rand(1, 3, *size)
    assert [tuple(o.shape[1:]) for o in model(x)] == [(16, 2, 3)] * 2
    whole = stream(kind, out_indices=(0, 1, 2), pyramid_channels=None).eval()
    whole.encoder.load_state_dict(model.encoder.state_dict(), strict=False)
    for a, b in zip(model(x), whole(x), strict=False):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize('kind', ['dinov2', 'swin'])
def test_frozen_and_lora(kind: str) -> None:
    frozen = stream(kind, tuning='frozen').train()
    assert not any(module.training for module in frozen.encoder.modules())
    outs = frozen(rand(2, 3, 32, 32))
    assert any(o.requires_grad for o in outs) == (frozen.pyramid is not None)
    require('peft')
    lora = stream(kind, tuning='lora').train()
    names = [n for n, p in lora.encoder.named_parameters() if p.requires_grad]
    assert names
    assert all(is_addition(name) for name in names)
    sum(o.square().sum() for o in lora(rand(2, 3, 32, 32))).backward()
    reached = [n for n, p in lora.encoder.named_parameters() if p.grad is not None]
    assert reached == names
    other = stream(kind, tuning='lora')
    other.load_state_dict(copy.deepcopy(lora.state_dict()), strict=True)
    with torch.no_grad():
        for a, b in zip(
            lora.eval()(rand(1, 3, 45, 61)),
            other.eval()(rand(1, 3, 45, 61)),
            strict=True,
        ):
            assert torch.equal(a, b)


@pytest.mark.parametrize('tuning', ['full', 'lora'])
def test_a_folder_for_config_and_weights(tuning: str, tmp_path) -> None:
    if tuning == 'lora':
        require('peft')
    source, path = folder('dinov2', tmp_path)
    model = MultiStreamBackbone(
        RGBD,
        dict(type='mmseg_xmodal.HFStream', config=path, tuning=tuning),
        exchange=False,
        pretrained=dict(checkpoint=path, first_conv='sum'),
    )
    model.init_weights()
    report = model.init_report
    assert report.adapted == {'depth': "3 to 1 channels by 'sum'"}
    assert report.loaded['rgb'] == len(source.state_dict())
    convs = [s.encoder.embeddings.patch_embeddings.projection for s in model.streams]
    assert torch.equal(convs[1].weight, convs[0].weight.sum(1, keepdim=True))
    grey = rand(1, 1, 28, 42)
    for stream_ in model.streams:
        stream_.pyramid = None
    with torch.no_grad():
        a = (
            model.streams[0]
            .eval()
            .run(model.streams[0].encoder, grey.repeat(1, 3, 1, 1))
        )
        b = model.streams[1].eval().run(model.streams[1].encoder, grey)
    torch.testing.assert_close(a[0], b[0], rtol=1e-4, atol=1e-5)


def test_the_image_part_of_a_two_part_model(tmp_path) -> None:
    text = dict(VIT, vocab_size=32, max_position_embeddings=8)
    image = {
        k: v for k, v in FAMILIES['siglip_vision_model'].items() if k != 'model_type'
    }
    whole = transformers.SiglipModel(
        transformers.SiglipConfig(text_config=text, vision_config=image)
    )
    whole.save_pretrained(tmp_path)
    model = HFStream(str(tmp_path), pretrained=str(tmp_path))
    model.init_weights()
    assert any('text_model' in key for key in model.init_report.skipped)
    own = model.encoder.state_dict()
    key = next(k for k in own if k.endswith('patch_embedding.weight'))
    theirs = whole.state_dict()
    assert torch.equal(
        own[key], theirs[f'vision_model.{key.split("vision_model.")[-1]}']
    )


def test_weights_are_loaded_strictly(tmp_path) -> None:
    _, path = folder('dinov2', tmp_path / 'a')
    with pytest.raises(ValueError, match=r"has 1 input.*first_conv='sum'"):
        stream('dinov2', in_channels=1, pretrained=path).init_weights()
    _, deep = folder('dinov2', tmp_path / 'b', num_hidden_layers=4)
    with pytest.raises(
        ValueError, match='dinov2 with 4 blocks, config has dinov2 with 3'
    ):
        stream('dinov2', pretrained=deep).init_weights()
    _, wide = folder('dinov2', tmp_path / 'c', hidden_size=24)
    with pytest.raises(ValueError, match='does not load into transformers dinov2'):
        stream('dinov2', pretrained=wide).init_weights()
    from safetensors.torch import load_file, save_file

    file = tmp_path / 'a' / 'model.safetensors'
    state = load_file(file)
    lost = next(key for key in state if 'norm1.weight' in key)
    del state[lost]
    save_file(state, file, metadata=dict(format='pt'))
    with pytest.raises(
        ValueError, match='lacks 1 tensors of transformers dinov2.*norm1'
    ):
        stream('dinov2', pretrained=path).init_weights()


def test_nothing_comes_from_the_network(tmp_path, monkeypatch) -> None:
    import socket

    def refuse(*args, **kwargs):
        raise AssertionError('the network was asked')

    monkeypatch.setattr(socket, 'getaddrinfo', refuse)
    name = 'facebook/dinov2-small'
    with pytest.raises(FileNotFoundError, match=f'config.*hf download {name} --local'):
        HFStream(name)
    with pytest.raises(
        FileNotFoundError, match=f'pretrained.*hf download {name} --loc'
    ):
        stream('dinov2', pretrained=name).init_weights()
    (tmp_path / 'empty').mkdir()
    with pytest.raises(FileNotFoundError, match='has no config.json.*save_pretrained'):
        stream('dinov2', pretrained=str(tmp_path / 'empty')).init_weights()
    (tmp_path / 'config.json').write_text(json.dumps(FAMILIES['dinov2']))
    built = HFStream(str(tmp_path), pyramid_channels=8)
    assert built.out_channels == (8, 8, 8, 8)


def test_errors(monkeypatch) -> None:
    with pytest.raises(
        ValueError, match="model_type=None.*config=dict.model_type='dinov"
    ):
        HFStream(dict(hidden_size=8))
    with pytest.raises(ValueError, match="model_type='bert' gives no maps.*'dinov2'"):
        HFStream(dict(model_type='bert', hidden_size=8, num_attention_heads=2))
    with pytest.raises(ValueError, match=r'out_indices=\[7\].*has 3 levels'):
        stream('dinov2', out_indices=[7])
    import sys

    monkeypatch.setitem(sys.modules, 'transformers', None)
    with pytest.raises(ImportError, match=r"pip install 'mmseg_xmodal\[encoders\]'"):
        HFStream(dict(model_type='dinov2'))


def test_in_a_stock_encoder_decoder() -> None:
    head = dict(type='mmseg.FCNHead', in_channels=8, in_index=3, channels=8)
    model = MODELS.build(
        dict(
            type='mmseg.EncoderDecoder',
            backbone=config('siglip_vision_model', tuning='frozen'),
            decode_head=dict(head, num_classes=3, norm_cfg=dict(type='BN')),
            train_cfg=dict(),
            test_cfg=dict(mode='whole'),
        )
    )
    before = copy.deepcopy(model.backbone.encoder.state_dict())
    model.init_weights()
    for key, value in model.backbone.encoder.state_dict().items():
        assert torch.equal(value, before[key]), key
    model.train()
    assert not model.backbone.encoder.training
    assert model(rand(2, 3, 64, 64), mode='tensor').shape == (2, 3, 2, 2)


@pytest.mark.parametrize('kind', ['dinov2', 'convnext'])
def test_other_ways_to_run(kind: str) -> None:
    model = stream(kind).eval()
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
