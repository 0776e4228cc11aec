"""Inference in slices of channels gives the numbers of the whole."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mmseg_xmodal.models.layers import slices as slicing
from mmseg_xmodal.models.layers.mit import MixFFN
from mmseg_xmodal.models.layers.slices import inference_slices, is_plain
from mmseg_xmodal.registry import MODELS

from .helpers import rand, randomise


def test_slices_cover_every_channel_once(monkeypatch):
    monkeypatch.setattr(slicing, '_ELEMENTS', 1000)
    with torch.no_grad():
        parts = inference_slices(rand(1), channels=200, places=10)
    assert len(parts) > 1
    assert [i for part in parts for i in range(200)[part]] == list(range(200))


def test_one_slice_where_it_does_not_pay():
    with torch.no_grad():
        assert inference_slices(rand(1), 64, 100) == [slice(0, 64)]


def test_one_slice_while_gradients_are_recorded():
    assert inference_slices(rand(1), 1 << 14, 1 << 14) == [slice(0, 1 << 14)]


def test_one_slice_in_half_precision():
    with torch.no_grad():
        parts = inference_slices(rand(1).bfloat16(), 1 << 14, 1 << 14)
    assert parts == [slice(0, 1 << 14)]


def test_one_slice_under_autocast():
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        assert inference_slices(rand(1), 1 << 14, 1 << 14) == [slice(0, 1 << 14)]


@pytest.mark.parametrize('batch', [1, 2])
def test_mix_ffn_in_slices(monkeypatch, batch):
    ffn = MixFFN(16, 160).eval()
    randomise(ffn)
    x = rand(batch, 12 * 10, 16)
    with torch.no_grad():
        whole = ffn(x, (12, 10))
        monkeypatch.setattr(slicing, '_ELEMENTS', 5000)
        assert len(inference_slices(x, 160, batch * 120)) > 1
        sliced = ffn(x, (12, 10))
    # The sum over hidden channels runs in another order.
    torch.testing.assert_close(sliced, whole, rtol=1e-5, atol=2e-5)


HEAD = dict(in_channels=[8, 16, 24, 32], in_index=[0, 1, 2, 3], channels=72)


def head_and_inputs(name: str):
    head = MODELS.build(dict(type=f'mmseg_xmodal.{name}', num_classes=5, **HEAD)).eval()
    randomise(head)
    sizes = ((13, 11), (7, 6), (4, 3), (2, 2))
    widths = HEAD['in_channels']
    return head, [rand(2, c, *s) for c, s in zip(widths, sizes, strict=True)]


@pytest.mark.parametrize('name', ['CMXHead', 'FastSegformerHead'])
def test_heads_in_slices(monkeypatch, name):
    head, feats = head_and_inputs(name)
    recorded = head(feats).detach()  # with gradients, hence whole
    monkeypatch.setattr(slicing, '_ELEMENTS', 5000)
    with torch.no_grad():
        assert len(inference_slices(feats[0], 72, 2 * 13 * 11)) > 1
        sliced = head(feats)
    torch.testing.assert_close(sliced, recorded, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(
    ('name', 'layer'),
    [
        ('CMXHead', 'linear_c1.proj'),
        ('CMXHead', 'linear_fuse.0'),
        ('CMXHead', 'linear_pred'),
        ('FastSegformerHead', 'fusion_conv.conv'),
        ('FastSegformerHead', 'conv_seg'),
    ],
)
def test_a_hooked_layer_of_a_head_is_called(name, layer):
    head, feats = head_and_inputs(name)
    with torch.no_grad():
        plain = head(feats)
        calls = []
        head.get_submodule(layer).register_forward_hook(lambda *_: calls.append(1))
        hooked = head(feats)
    assert calls
    torch.testing.assert_close(hooked, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('name', ['CMXHead', 'FastSegformerHead'])
def test_monte_carlo_dropout_still_drops(name):
    head, feats = head_and_inputs(name)
    with torch.no_grad():
        certain = head(feats)
        head.dropout.p = 0.5
        head.dropout.train()
        assert not torch.allclose(head(feats), certain)


def test_a_hooked_layer_of_mix_ffn_is_called(monkeypatch):
    monkeypatch.setattr(slicing, '_ELEMENTS', 1000)
    ffn = MixFFN(16, 160).eval()
    calls = []
    ffn.dwconv.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        ffn(rand(1, 120, 16), (12, 10))
    assert calls


def test_a_layer_that_is_more_than_its_weights_is_not_plain():
    """A layer that is more than its weights must not be taken apart."""

    class Adapted(nn.Linear):
        pass

    linear = nn.Linear(2, 2)
    assert is_plain(linear)
    assert not is_plain(Adapted(2, 2))
    linear.register_forward_hook(lambda *_: None)
    assert not is_plain(linear)
