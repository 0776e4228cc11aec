from __future__ import annotations

import re

import pytest
import torch

from mmseg_xmodal.ops import criss_cross_attention
from mmseg_xmodal.ops.criss_cross import api, reference

from xbench.ops_forms import criss_cross_einsum  # isort: skip  # path of the conftest
from xbench.ops_measure import peak_bytes  # isort: skip


def inputs(height=5, width=7, batch=2, dtype=torch.float64, channels=(3, 3, 6)):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(batch, c, height, width, generator=generator, dtype=torch.float64)
        .to(dtype)
        .requires_grad_()
        for c in channels
    ]


def by_loops(q, k, v):
    """One place at a time: its row, and its column without it."""
    out = torch.zeros_like(v)
    height, width = q.shape[2:]
    for b in range(q.shape[0]):
        for i in range(height):
            for j in range(width):
                places = [(i, x) for x in range(width)]
                places += [(y, j) for y in range(height) if y != i]
                keys = torch.stack([k[b, :, y, x] for y, x in places])
                values = torch.stack([v[b, :, y, x] for y, x in places])
                out[b, :, i, j] = (keys @ q[b, :, i, j]).softmax(0) @ values
    return out


@pytest.mark.parametrize(
    'size', [(5, 7), (1, 6), (6, 1), (1, 1), (2, 2)], ids=lambda s: f'{s[0]}x{s[1]}'
)
def test_equals_one_place_at_a_time(size):
    q, k, v = inputs(*size)
    torch.testing.assert_close(criss_cross_attention(q, k, v), by_loops(q, k, v))


@pytest.mark.parametrize('size', [(5, 7), (1, 4), (4, 1)])
def test_gradcheck(size):
    assert torch.autograd.gradcheck(criss_cross_attention, inputs(*size, batch=1))


def test_gradients_of_gradients():
    assert torch.autograd.gradgradcheck(
        criss_cross_attention, inputs(2, 3, batch=1, channels=(2, 2, 2))
    )


def test_scale():
    q, k, v = inputs()
    torch.testing.assert_close(
        criss_cross_attention(q, k, v, scale=0.3), criss_cross_attention(q * 0.3, k, v)
    )


def test_strips_one_at_a_time_change_nothing(monkeypatch):
    tensors = inputs()
    want = criss_cross_attention(*tensors)
    grads = torch.autograd.grad(want.square().sum(), tensors)
    monkeypatch.setattr(reference, '_HELD', dict(cpu=1, cuda=1))
    got = criss_cross_attention(*tensors)
    torch.testing.assert_close(got, want)
    for a, b in zip(
        torch.autograd.grad(got.square().sum(), tensors), grads, strict=True
    ):
        torch.testing.assert_close(a, b)


def test_small_images_go_together():
    q, v = torch.empty(32, 8, 6, 5), torch.empty(32, 16, 6, 5)
    assert len(reference._chunks(q, v, rows=True)) == 1
    large = torch.empty(2, 64, 128, 256, device='meta')
    parts = reference._chunks(large, large, rows=True)
    assert {images.stop - images.start for (images, _), _ in parts} == {1}


@pytest.mark.parametrize('limit', [1, 60, 400])
def test_parts_of_strips_and_channels_add_up(limit, monkeypatch):
    """However small the parts, the numbers are those of the whole."""
    q, k, v = inputs()
    grad = torch.ones_like(v)
    whole = reference.forward(q, k, v, 0.5)
    grads = reference.backward(grad, q, k, v, *whole, 0.5)
    monkeypatch.setitem(reference._HELD, 'cpu', limit)
    parts = reference._chunks(q, v, rows=False)
    assert len(parts) > 1 or len(parts[0][1]) > 1
    small = reference.forward(q, k, v, 0.5)
    torch.testing.assert_close(small, whole)
    torch.testing.assert_close(reference.backward(grad, q, k, v, *small, 0.5), grads)


@pytest.mark.parametrize(('channels', 'fits'), [(384, False), (192, True)])
def test_interleaved_heads_reach_far(monkeypatch, channels, fits):
    """Heads of one (B, H, W, 3 C) map, as the neck gives them, share their extent."""
    seen = []
    monkeypatch.setattr(api.dispatch, 'choose', lambda *_, **k: seen.append(k['unfit']))
    size, strides = (8, channels // 8, 1024, 2048), (channels // 8, 1)
    strides += (3 * channels * 2048, 3 * channels)
    q = torch.empty_strided(size, strides, device='meta')
    api._choose(q, q, q, 'auto')
    assert (seen == [None]) == fits


def test_large_scores_do_not_overflow():
    q, k, v = inputs()
    out = criss_cross_attention(q * 1e3, k * 1e3, v)
    torch.testing.assert_close(out, criss_cross_einsum(q * 1e3, k * 1e3, v))


def rounding_bounds(q, k, v, unit):
    """What half precision may differ by for a gradient of ones; result, q, k, v.

    ``unit`` is the error of one rounding. A result has three: of the weights, of the
    products of a strip, of itself. The gradient of a score is a product of gradient
    and value, rounded once, less its mean, which has the three of the result.
    """

    def attend(x):  # the weighted means of x, as by_query and by_score need them
        return criss_cross_einsum(q, k, x).detach()

    def spread(x):  # the transposed: what values get from gradients x
        values = torch.zeros_like(x, requires_grad=True)
        return torch.autograd.grad(criss_cross_einsum(q, k, values), values, x)[0]

    q, k, v = q.detach(), k.detach(), v.detach()
    product = v.sum(1, keepdim=True).abs()  # of a gradient of ones and a value
    mean = 3 * attend(v.abs().sum(1, keepdim=True))
    by_query = attend(product * k.abs()) + mean * attend(k.abs())
    by_key = product * spread(q.abs()) + spread(q.abs() * mean)
    by_value = 3 * spread(torch.ones_like(v))
    grads = torch.autograd.grad(
        criss_cross_einsum(*(x.requires_grad_() for x in (q, k, v))).sum(), (q, k)
    )
    by_query, by_key = by_query + grads[0].abs(), by_key + grads[1].abs()
    return [unit * x for x in (3 * attend(v.abs()), by_query, by_key, by_value)]


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    tensors = inputs(dtype=dtype)
    wide = [x.detach().double().requires_grad_() for x in tensors]
    got, want = criss_cross_attention(*tensors), criss_cross_einsum(*wide)
    assert got.dtype == dtype
    cotangent = torch.ones_like(want)
    ours = torch.autograd.grad(got, tensors, cotangent.to(dtype))
    grads = torch.autograd.grad(want, wide, cotangent, retain_graph=True)
    bounds = rounding_bounds(*wide, torch.finfo(dtype).eps / 2)
    for a, b, bound in zip((got, *ours), (want, *grads), bounds, strict=True):
        # Weights below the normal numbers of float16 are off by up to 2^-25 each.
        assert ((a.double() - b).abs() <= bound + 1e-6).all()


@pytest.mark.parametrize('mode', ['forward', 'training'])
@pytest.mark.parametrize('channels', [64, 512])
def test_a_quarter_of_the_memory_of_the_einsum_form(mode, channels):
    """At 128 x 256. With 512 channels the result alone is more than a quarter of what
    the einsum form takes; there, and so in both, results do not count on either side.
    """
    generator = torch.Generator().manual_seed(0)
    sizes = (channels // 8, channels // 8, channels)
    tensors = [torch.randn(1, c, 128, 256, generator=generator) for c in sizes]
    results = tensors[2].numel()

    def step(form):
        if mode == 'forward':
            return lambda: form(*tensors)
        leaves = [x.clone().requires_grad_() for x in tensors]
        cotangent = torch.ones_like(tensors[2])
        return lambda: torch.autograd.grad(form(*leaves), leaves, cotangent)

    if mode == 'training':
        results += sum(x.numel() for x in tensors)
    ours, theirs = (
        peak_bytes(step(form), 'cpu')
        for form in (criss_cross_attention, criss_cross_einsum)
    )
    shown = [f'{x / 2**20:.0f} MiB' for x in (ours, theirs, results * 4)]
    print(f'{mode}, {channels}: {shown[0]}, einsum {shown[1]}, results {shown[2]}')
    assert ours - results * 4 <= (theirs - results * 4) / 4
    assert channels > 64 or 0 < ours <= theirs / 4


BAD = {
    'axes': (lambda q, k, v: (q[0], k, v), ValueError, 'q got .* expected 4 axes'),
    'keys': (lambda q, k, v: (q, k[:, 1:], v), ValueError, 'k got .* expected that'),
    'size': (
        lambda q, k, v: (q, k, v[..., 1:]),
        ValueError,
        r'v got .*expected \(2, C',
    ),
    'dtype': (lambda q, k, v: (q, k, v.half()), TypeError, 'expected one floating'),
    'device': (lambda q, k, v: (q, k, v.to('meta')), ValueError, 'expected one device'),
}


@pytest.mark.parametrize('case', BAD, ids=list(BAD))
def test_bad_input(case):
    change, error, message = BAD[case]
    with pytest.raises(error, match=message) as caught:
        criss_cross_attention(*change(*inputs()))
    # What was got, what was expected, and then what to change.
    assert re.search(r' got .* expected .*\. [A-Z].*\.$', str(caught.value))
