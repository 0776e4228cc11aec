"""Deformable attention with holes against a softmax over the cells that are seen."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from mmseg_xmodal.models.layers import masked_deformable
from mmseg_xmodal.models.layers.masked_deformable import DeformableAttention

from .helpers import rand, randomise
from .neck_cases import SIZES, build, stack, streams_of


def _deformable() -> tuple[DeformableAttention, tuple, list]:
    """Two heads, three points on each of a 4x5 and a 2x3 map, a third of it holes."""
    torch.manual_seed(0)
    attention = DeformableAttention(8, 2, 2, 3)
    randomise(attention)
    attention.sampling_offsets.weight.data.mul_(2)
    x, source = rand(1, 6, 8), rand(1, 26, 8, seed=1)
    seen = (rand(1, 26, seed=2) > -0.3).float()
    return attention, (x, torch.rand(6, 2), source, seen), [(4, 5), (2, 3)]


def _plain_deformable(attention, arguments, sizes, locations) -> Tensor:
    """A softmax over all seen cells around all points, one query and head at a time."""
    x, _, source, seen = arguments
    value = attention.value_proj(source).view(26, 2, 4)
    logits = attention.attention_weights(x).view(6, 2, 2, 3)
    out = torch.zeros(6, 2, 4)
    for q, head in itertools.product(range(6), range(2)):
        keys, values = [], []
        for (m, (h, w)), p in itertools.product(enumerate(sizes), range(3)):
            px = locations[0, q, head, m, p, 0] * w - 0.5
            py = locations[0, q, head, m, p, 1] * h - 0.5
            for cy, cx in itertools.product(
                (py.floor(), py.floor() + 1), (px.floor(), px.floor() + 1)
            ):
                if not (0 <= cy < h and 0 <= cx < w):
                    continue
                cell = int(20 * m + cy * w + cx)
                share = (1 - (py - cy).abs()) * (1 - (px - cx).abs())
                if seen[0, cell] and share > 0:
                    keys.append(logits[q, head, m, p] + share.log())
                    values.append(value[cell, head])
        if keys:
            out[q, head] = torch.stack(keys).softmax(0) @ torch.stack(values)
    return attention.output_proj(out.view(1, 6, 8))


@pytest.mark.parametrize('spread', [1, 30])
def test_deformable_attention_is_a_softmax_over_valid_cells(spread):
    """Every cell around every point is a key; invalid and outside ones are masked."""
    attention, arguments, sizes = _deformable()
    attention.attention_weights.weight.data.mul_(spread)
    out, (locations, _) = attention(*arguments, sizes)
    expected = _plain_deformable(attention, arguments, sizes, locations)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize('logit', [14.0, 100.0])
@pytest.mark.parametrize('dtype', [None, torch.float16, torch.bfloat16])
def test_a_point_in_a_hole_leaves_the_others_their_weight(logit, dtype):
    """However large its logit is."""
    attention = DeformableAttention(8, 2, 1, 2)
    attention.reset_parameters()
    attention.sampling_offsets.bias.data.zero_()
    offsets = attention.sampling_offsets.bias.data.view(2, 1, 2, 2)
    offsets[:, 0, 0, 0] = 2.0  # the first point lies two cells to the right
    attention.attention_weights.bias.data.view(2, 2)[:, 0] = logit
    seen = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    x, source = rand(1, 1, 8), rand(1, 4, 8, seed=1).requires_grad_()
    place = torch.tensor([[0.25, 0.5]])  # between the first two cells
    with torch.autocast('cpu', dtype or torch.float16, enabled=dtype is not None):
        out, (_, weights) = attention(x, place, source, seen, [(1, 4)])
        value = attention.value_proj(source)
        expected = attention.output_proj(value[:, :2].mean(1, keepdim=True))
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights[0, 0, :, 0], torch.tensor([[0.0, 1.0]] * 2))
    tolerance = {} if dtype is None else dict(atol=1e-2, rtol=1e-2)
    torch.testing.assert_close(out, expected, **tolerance)
    out.float().square().sum().backward()
    assert source.grad[0, :2].any()
    assert not source.grad[0, 2:].any()
    assert all(p.grad.isfinite().all() for p in attention.parameters())


def test_a_query_that_sees_nothing_gets_zeros_and_finite_gradients():
    attention, (x, places, source, _), sizes = _deformable()
    x.requires_grad_()
    out, (_, weights) = attention(x, places, source, torch.zeros(1, 26), sizes)
    assert not out.any()
    assert not weights.any()
    out.sum().backward()
    assert not x.grad.any()
    assert all(p.grad.isfinite().all() for p in attention.parameters())


def test_a_missing_map_with_large_logits_leaves_the_others_their_weight():
    attention = DeformableAttention(8, 2, 2, 3)
    attention.reset_parameters()
    bias = attention.attention_weights.bias.data.view(2, 2, 3)
    bias[:, 0] = 1000.0
    seen = torch.ones(1, 26)
    seen[:, :20] = 0
    arguments = rand(1, 6, 8), torch.rand(6, 2), rand(1, 26, 8, seed=1), seen
    out, sampled = attention(*arguments, [(4, 5), (2, 3)])
    assert out.abs().sum() > 0
    assert not sampled[1][:, :, :, 0].any()


def test_the_points_find_a_shifted_partner():
    """What the depth map holds two cells to the right can be read there."""
    neck = build('deformable', anchor=0)
    attention = neck.blocks[0].attn
    attention.sampling_offsets.weight.data.zero_()
    attention.sampling_offsets.bias.data.zero_()
    attention.sampling_offsets.bias.data.view(2, 4, 2, 2)[:, 2, :, 0] = 2.0
    bias = attention.attention_weights.bias.data.view(2, 4, 2)
    attention.attention_weights.weight.data.zero_()
    bias.zero_()
    bias[:, 2] = 50.0  # the first level of the second stream
    full = [[torch.ones(2, 1, *s)] * 2 for s in SIZES]
    levels = streams_of()
    before = neck(stack(levels, full))[0]
    levels[0][1][:, :, 3, 6] += 1
    after = neck(stack(levels, full))[0]
    moved = (after - before).abs().sum((0, 1)) > 1e-4
    assert moved.nonzero().tolist() == [[3, 4]]


@pytest.mark.parametrize('whole', [False, True])
@pytest.mark.parametrize('seen', [None, 'ones'])
def test_without_holes_the_share_of_a_point_is_what_lies_in_the_map(
    seen, whole, monkeypatch
):
    """The short way gives what counting cells gives, and its gradients: on whole
    pixels too, where points begin and the slope jumps, also of a map one cell wide.
    """
    attention, (x, places, source, mask), sizes = _deformable()
    attention.sampling_offsets.weight.data.mul_(2)  # some points outside
    if whole:
        attention = DeformableAttention(8, 4, 2, 3)
        attention.reset_parameters()
        attention.attention_weights.weight.data.normal_()
        sizes = [(4, 4), (10, 1)]
        places = (torch.arange(6)[:, None] % 4 + 0.5).expand(-1, 2) / 4
    ones = torch.ones_like(mask)
    short, counted = [], []
    for found, given in ((short, None if seen is None else ones), (counted, ones)):
        with monkeypatch.context() as patch:
            if found is counted:
                patch.setattr(masked_deformable, '_all_seen', lambda _: False)
            leaf = x.clone().requires_grad_()
            out, (locations, weights) = attention(leaf, places, source, given, sizes)
            out.square().sum().backward()
            found += [out.detach(), weights.detach(), leaf.grad]
    outside = (locations < 0) | (locations > 1)
    assert 0.1 < outside.float().mean() < 0.9
    for a, b in zip(short, counted, strict=True):
        # Of the whole: terms of the gradient cancel in single elements.
        assert (a - b).norm() <= 5e-6 * b.norm()


def test_slopes_of_the_shares_are_right():
    torch.manual_seed(0)
    locations = torch.rand(1, 6, 1, 2, 1, 2, dtype=torch.float64) * 1.6 - 0.3
    locations.requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masked_deformable, '_QUERIES', 4)
        inside = lambda x: masked_deformable._shares_inside(x, [(4, 5), (2, 1)])  # noqa: E731
        assert torch.autograd.gradcheck(inside, locations)
        assert torch.autograd.gradgradcheck(inside, locations)


def test_holes_are_seen_though_it_costs_a_look():
    assert masked_deformable._all_seen(torch.ones(1, 3))
    with FakeTensorMode():
        assert not masked_deformable._all_seen(torch.ones(1, 3))
    assert not masked_deformable._all_seen(torch.tensor([[1.0, 0.0, 1.0]]))


def test_shares_have_the_same_slopes_while_captured(monkeypatch):
    sizes = [(4, 4), (2, 1)]
    steps = torch.arange(-3, 10) / 2  # whole pixels too
    x, y = (side.flatten() for side in torch.meshgrid(steps, steps, indexing='xy'))
    extents = torch.tensor([[w, h] for h, w in sizes])
    pixels = torch.stack([x, y], -1)[:, None]
    locations = ((pixels + 0.5) / extents).view(1, -1, 1, 2, 1, 2).requires_grad_()
    found = []
    for captured in (False, True):
        monkeypatch.setattr(masked_deformable, 'is_captured', lambda c=captured: c)
        shares = masked_deformable._shares_inside(locations, sizes)
        found.append((shares, *torch.autograd.grad(shares.sum(), locations)))
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)
    # On the last pixel of the wide map, towards the border.
    last = (pixels[:, 0] == 3).all(1).nonzero().item()
    assert found[0][1][0, last, 0, 0, 0].tolist() == [-4.0, -4.0]
