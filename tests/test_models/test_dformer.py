"""DFormer: sizes, gradients, validity, precision, published form, converter."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmseg_xmodal.models.backbones import DFormer
from mmseg_xmodal.models.converters import convert_official, recognise
from mmseg_xmodal.models.converters.dformer import DFORMER, convert_dformer
from mmseg_xmodal.models.layers import dformer_block, slices
from mmseg_xmodal.models.layers.dformer_sizes import DFORMER_VARIANTS
from mmseg_xmodal.registry import MODELS
from tests.reference_forms import PUBLISHED

from .helpers import FOUR, RGBD, rand, randomise, without_gradient

SIZE: dict[str, Any] = dict(
    embed_dims=(8, 16, 24, 32),
    depths=(1, 1, 2, 2),
    num_heads=(1, 2, 3, 4),
    mlp_ratios=(4, 2, 2, 2),
)
STREAMS = dict(rgb=['rgb'], x=['nir', 'swir', 'dem'])


def _config(
    variant: Any = SIZE, dims: tuple = SIZE['embed_dims'], wide: int = 16, **head: Any
) -> dict:
    head = dict(ham_kwargs=dict(MD_R=4)) | head if wide == 16 else head
    return dict(
        type='mmseg.EncoderDecoder',
        backbone=dict(
            type='mmseg_xmodal.DFormer',
            modalities=RGBD,
            variant=variant,
            drop_path_rate=0.0,
        ),
        decode_head=dict(
            type='mmseg_xmodal.HamHead',
            in_channels=dims[1:],
            channels=wide,
            ham_channels=wide,
            num_classes=3,
            dropout_ratio=0.0,
            **head,
        ),
        test_cfg=dict(mode='whole'),
    )


def _segmentor(**head: Any) -> nn.Module:
    model = MODELS.build(_config(**head))
    randomise(model)
    return model


@pytest.mark.parametrize('size', [(64, 96), (72, 104), (45, 61)])
def test_gradients_reach_every_parameter(size: tuple[int, int]) -> None:
    model = DFormer(RGBD, SIZE, drop_path_rate=0.0, layer_scale=0.5)
    model.init_weights()
    x = rand(2, 4, *size).requires_grad_()
    outs = model(x)
    steps = itertools.accumulate(range(4), lambda s, _: [-(-n // 2) for n in s],
                                 initial=[-(-n // 4) for n in size])  # fmt: skip
    assert [list(o.shape[2:]) for o in outs] == list(steps)[:4]
    assert [o.shape[1] for o in outs] == list(model.out_channels)
    sum(out.square().mean() for out in outs).backward()
    assert (x.grad.abs().sum((0, 2, 3)) > 0).all()
    # Under DDP each one must be there; those of key biases are 0 but for rounding.
    assert all(p.grad is not None for p in model.parameters())
    assert [n for n in without_gradient(model) if not n.endswith('kv.bias')] == []


@pytest.mark.parametrize('size', [(1, 1), (1, 40), (7, 3), (33, 31)])
def test_any_size(size: tuple[int, int]) -> None:
    outs = DFormer(RGBD, SIZE).eval()(rand(1, 4, *size))
    assert all(torch.isfinite(out).all() for out in outs)
    assert outs[0].shape[2:] == tuple(-(-n // 4) for n in size)


@pytest.mark.parametrize('train', [True, False])
def test_equals_the_published_form(train: bool) -> None:
    """Double precision, logits and all gradients; train = BN on batch statistics."""
    model = _segmentor().double()
    published = PUBLISHED['mmseg_xmodal.DFormer'](model).double()
    model.train(train), published.train(train)
    x = rand(2, 4, 72, 88, dtype=torch.float64)
    ours, expected = model(x, mode='tensor'), published(x)
    torch.testing.assert_close(ours, expected)
    ours.square().sum().backward()
    expected.square().sum().backward()
    theirs = dict(published.named_parameters())
    for name, parameter in model.named_parameters():
        other = theirs[name].grad
        close = dict(atol=1e-9 * float(other.abs().max()) + 1e-10, rtol=1e-6)
        torch.testing.assert_close(parameter.grad, other, **close, msg=name)


@pytest.mark.parametrize('grad', [True, False])
def test_slices_change_no_number(monkeypatch: Any, grad: bool) -> None:
    model = _segmentor().double().eval()
    x = rand(1, 4, 64, 64, dtype=torch.float64)
    with torch.set_grad_enabled(grad):
        whole = model(x, mode='tensor')
        monkeypatch.setattr(slices, '_ELEMENTS', 100)
        monkeypatch.setattr(slices, '_STEP', 8)
        assert len(slices.inference_slices(x, 32, 256)) == (1 if grad else 4)
        torch.testing.assert_close(model(x, mode='tensor'), whole)


def test_layers_that_are_more_than_their_weights_are_called() -> None:
    model = _segmentor().double().eval()
    x = rand(1, 4, 64, 64, dtype=torch.float64)
    whole = model(x, mode='tensor')
    block = model.backbone.stages[1][0]
    called = []
    for layer in (block.mlp.fc2, block.attn.proj, block.attn.conv):
        layer.register_forward_hook(lambda *_: called.append(1))
    model.decode_head.align.conv.register_forward_hook(lambda *_: called.append(1))
    torch.testing.assert_close(model(x, mode='tensor'), whole)
    assert len(called) == 4


def test_a_layer_scale_survives_float16(monkeypatch: Any) -> None:
    """1e-6 times a weight is 0 in float16: scale the result instead."""
    monkeypatch.setattr(torch, 'is_autocast_enabled', lambda _device: True)
    monkeypatch.setattr(torch, 'get_autocast_dtype', lambda _device: torch.float16)
    assert not dformer_block._may_fold(nn.Linear(2, 2))
    monkeypatch.setattr(torch, 'get_autocast_dtype', lambda _device: torch.bfloat16)
    assert dformer_block._may_fold(nn.Linear(2, 2))


def test_all_valid_equals_no_validity() -> None:
    model = DFormer(RGBD, SIZE, layer_scale=0.5).eval()
    x = rand(2, 4, 72, 104)
    with torch.no_grad():
        plain = model(x)
        masked = model(torch.cat([x, torch.ones(2, 2, 72, 104)], 1))
    assert all(torch.equal(p, m) for p, m in zip(plain, masked, strict=True))


@pytest.mark.parametrize('missing', [0, 1])
def test_a_missing_modality_has_no_say(missing: int) -> None:
    model = DFormer(RGBD, SIZE, layer_scale=0.5).eval()
    randomise(model)
    valid = torch.ones(1, 2, 64, 64)
    valid[:, missing] = 0
    place = slice(0, 3) if missing == 0 else slice(3, 4)
    first, second = rand(1, 4, 64, 64), rand(1, 4, 64, 64)
    second[:, place] += 5
    with torch.no_grad():
        a, b = (model(torch.cat([x, valid], 1)) for x in (first, second))
        seen = model(torch.cat([second, torch.ones_like(valid)], 1))
    assert all(torch.equal(p, q) for p, q in zip(a, b, strict=True))
    assert not torch.allclose(seen[0], b[0])


def test_pooled_queries_average_valid_places_only() -> None:
    x = rand(1, 14, 14, 4)
    valid = torch.ones(1, 14, 14, 1)
    valid[:, 1] = 0
    pooled = dformer_block._pool(x, 7, valid)
    torch.testing.assert_close(pooled[0, 0, 0], x[0, 0, :2].mean(0))
    assert torch.equal(dformer_block._pool(x, 7, 0 * valid), torch.zeros(1, 7, 7, 4))


def test_streams_and_their_errors() -> None:
    model = DFormer(FOUR, SIZE, STREAMS)
    assert model.input.channels == (3, 4)
    assert len(model(rand(1, 7, 64, 64))) == 4
    with pytest.raises(ValueError, match=r'exactly 2 streams, got 4.*streams=dict'):
        DFormer(FOUR, SIZE)
    with pytest.raises(ValueError, match=r"'dformer_xl' is not.*'dformer_tiny'"):
        DFormer(RGBD, 'dformer_xl')
    with pytest.raises(ValueError, match=r'16 in stage 2 is no multiple of 6'):
        DFormer(RGBD, SIZE | dict(num_heads=(1, 3, 3, 4)))
    with pytest.raises(ValueError, match='lengths'):
        DFormer(RGBD, SIZE | dict(depths=(1, 1)))
    with pytest.raises(ValueError, match='at most one'):
        DFormer(RGBD, SIZE, pretrained='a.pth', init_cfg=dict(type='Pretrained'))


def test_precision_memory_order_compile_and_copies() -> None:
    model = _segmentor().eval()
    x = rand(2, 4, 64, 96)
    with torch.no_grad():
        expected = model(x, mode='tensor')
        order = x.contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(model(order, mode='tensor'), expected)
        copied = copy.deepcopy(model)(x, mode='tensor')
        torch.testing.assert_close(copied, expected)
        compiled = torch.compile(model, backend='eager', fullgraph=False)
        torch.testing.assert_close(compiled(x, mode='tensor'), expected)
    model.train()
    with torch.autocast('cpu', torch.bfloat16):
        half = model(x, mode='tensor').float()
    full = model(x, mode='tensor')
    assert (half - full).abs().mean() < 0.05 * full.abs().mean()
    half.square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def _official(variant: str, classes: int = 5) -> tuple[dict, dict[str, Tensor]]:
    dims = DFORMER_VARIANTS[variant].embed_dims
    config = _config(variant, dims, wide=512)
    config['decode_head']['num_classes'] = classes
    with torch.device('meta'):
        return config, MODELS.build(config).state_dict()


@pytest.mark.parametrize('variant', DFORMER_VARIANTS)
def test_converter_reads_the_size(variant: str) -> None:
    config, state = _official(variant)
    found = DFORMER.config(state)
    assert found['backbone']['variant'] == variant
    assert found['decode_head']['in_channels'] == list(
        config['decode_head']['in_channels']
    )
    assert found['decode_head']['num_classes'] == 5
    assert convert_official(DFORMER, state).keys() == state.keys()
    assert [o.name for o in recognise(state)] == ['dformer']


def test_converter_names_what_is_wrong() -> None:
    _, state = _official('dformer_tiny')
    with pytest.raises(ValueError, match=r'no official DFormer.*dformer_tiny'):
        DFORMER.config({'backbone.norm.weight': torch.zeros(1)})
    lacking = {k: v for k, v in state.items() if not k.endswith('q_cut.weight')}
    with pytest.raises(ValueError, match=r'13 keys are missing.*q_cut'):
        convert_official(DFORMER, lacking)
    extra = state | {'backbone.stages.0.0.attn.u': torch.zeros(1)}
    with pytest.raises(ValueError, match=r'1 keys are not expected.*attn\.u'):
        convert_official(DFORMER, extra)
    with pytest.raises(ValueError, match='no DFormer weights'):
        convert_dformer({'a': torch.zeros(1)})


def test_norms_that_official_code_never_called_are_left_out() -> None:
    config, state = _official('dformer_tiny')
    norms = {
        f'backbone.norm{i}.{leaf}': torch.empty(dim, device='meta')
        for i, dim in enumerate(DFORMER_VARIANTS['dformer_tiny'].embed_dims)
        for leaf in ('weight', 'bias')
    }
    assert convert_official(DFORMER, state | norms).keys() == state.keys()
    assert [o.name for o in recognise(state | norms)] == ['dformer']
    assert set(norms) <= set(convert_dformer(state | norms).skipped)
    with pytest.raises(ValueError, match=r'1 keys are not expected.*norm4'):
        convert_official(DFORMER, state | {'backbone.norm4.bias': torch.zeros(1)})


def test_pretrained_weights_and_their_report(tmp_path: Any) -> None:
    source = DFormer(RGBD, SIZE)
    randomise(source)
    state = source.state_dict() | {'head.weight': torch.zeros(2, 2)}
    path = str(tmp_path / 'pretrained.pth')
    # The averaged weights are what the official code starts from.
    raw = {name: torch.zeros_like(value) for name, value in state.items()}
    torch.save({'state_dict': raw, 'state_dict_ema': state}, path)
    model = DFormer(RGBD, SIZE, pretrained=path)
    model.init_weights()
    assert model.init_report is not None
    assert model.init_report.skipped == ('head.weight',)
    assert all(torch.equal(v, source.state_dict()[k])
               for k, v in model.state_dict().items())  # fmt: skip
    wider = DFormer(FOUR, SIZE, STREAMS, pretrained=path)
    with pytest.raises(ValueError, match="'x' has 4 input channels.*first_conv"):
        wider.init_weights()
    wider.pretrained = dict(checkpoint=path, first_conv='sum')
    wider.init_weights()
    assert list(wider.init_report.adapted) == ['x']
    deeper = DFormer(RGBD, SIZE | dict(depths=(1, 1, 2, 3)), pretrained=path)
    with pytest.raises(ValueError, match='lacks .* tensors'):
        deeper.init_weights()
