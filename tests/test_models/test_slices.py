"""Inference in slices of channels gives the numbers of the whole."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mmseg_xmodal.models.layers import slices as slicing
from mmseg_xmodal.models.layers.mit import MixFFN
from mmseg_xmodal.models.layers.slices import inference_slices, is_plain

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


def test_adapters_and_hooks_are_called():
    """A layer that is more than its weights must not be taken apart."""

    class Adapted(nn.Linear):
        pass

    linear = nn.Linear(2, 2)
    assert is_plain(linear)
    assert not is_plain(Adapted(2, 2))
    linear.register_forward_hook(lambda *_: None)
    assert not is_plain(linear)
