from __future__ import annotations

import re

import pytest
import torch

from mmseg_xmodal.ops import modality_attention

from xbench.ops_forms import modality_stacked  # isort: skip  # path of the conftest
from xbench.ops_measure import peak_bytes  # isort: skip


def inputs(m=3, n=5, dtype=torch.float64, values=4):
    generator = torch.Generator().manual_seed(0)
    sizes = [(2, n, 2, 4), (2, m, n, 2, 4), (2, m, n, 2, values)]
    return [
        torch.randn(s, generator=generator, dtype=torch.float64).to(dtype)
        for s in sizes
    ]


def by_loops(q, k, v, mask):
    out = q.new_zeros(*q.shape[:-1], v.shape[-1])
    for b, n, head in torch.cartesian_prod(*map(torch.arange, q.shape[:-1])):
        allowed = mask[b, :, n]
        if allowed.any():
            scores = k[b, allowed, n, head] @ q[b, n, head] * q.shape[-1] ** -0.5
            out[b, n, head] = scores.softmax(0) @ v[b, allowed, n, head]
    return out


@pytest.mark.parametrize('m', [1, 2, 3, 4])
@pytest.mark.parametrize('masked', [False, True])
def test_equals_one_place_at_a_time(m, masked):
    q, k, v = inputs(m, n=12, values=3)
    mask = torch.ones(2, m, 12, dtype=torch.bool)
    if masked:
        mask = torch.rand(2, m, 12, generator=torch.Generator().manual_seed(1)) > 0.6
        assert not mask.any(1).all()
    got = modality_attention(q, k, v, mask if masked else None)
    torch.testing.assert_close(got, by_loops(q, k, v, mask))


@pytest.mark.parametrize('m', [2, 3])
def test_equals_sdpa(m):
    q, k, v = inputs(m)
    torch.testing.assert_close(modality_attention(q, k, v), modality_stacked(q, k, v))


@pytest.mark.parametrize('m', [2, 3])
def test_a_list_and_one_tensor_are_the_same(m):
    q, k, v = inputs(m)
    got = modality_attention(q, list(k.unbind(1)), list(v.unbind(1)))
    assert torch.equal(got, modality_attention(q, k, v))


@pytest.mark.parametrize('m', [2, 3])
def test_a_mask_of_whole_modalities(m):
    q, k, v = inputs(m)
    mask = torch.ones(2, m, dtype=torch.bool)
    mask[0, 0] = False
    places = mask[..., None].expand(2, m, 5)
    assert torch.equal(
        modality_attention(q, k, v, mask), modality_attention(q, k, v, places)
    )


@pytest.mark.parametrize('m', [2, 3])
def test_weights(m):
    q, k, v = inputs(m)
    mask = torch.rand(2, m, 5, generator=torch.Generator().manual_seed(1)) > 0.3
    out, weights = modality_attention(q, k, v, mask, return_weights=True)
    assert weights.shape == (2, m, 5, 2)
    assert not weights[~mask].any()
    some = mask.any(1)[..., None].expand(2, 5, 2).to(weights)
    torch.testing.assert_close(weights.sum(1), some)
    torch.testing.assert_close((weights[..., None] * v).sum(1), out)


@pytest.mark.parametrize('m', [2, 3])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_what_is_masked_may_hold_anything(m, dtype):
    q, k, v = (x.requires_grad_() for x in inputs(m, n=12, dtype=dtype))
    mask = torch.rand(2, m, 12, generator=torch.Generator().manual_seed(1)) > 0.6
    bad = torch.where(mask[..., None, None], 0.0, float('nan')).to(dtype)
    out = modality_attention(q, k + bad, v + bad, mask)
    assert torch.equal(out, modality_attention(q, k, v, mask))
    nothing = ~mask.any(1)
    assert nothing.any()
    assert not out[nothing].any()
    for grad in torch.autograd.grad(out.sum(), (q, k, v)):
        assert grad.isfinite().all()


@pytest.mark.parametrize('m', [1, 2, 3])
def test_gradcheck(m):
    tensors = [x.requires_grad_() for x in inputs(m, n=3)]
    mask = torch.rand(2, m, 3, generator=torch.Generator().manual_seed(1)) > 0.3
    for given in (None, mask):
        call = lambda q, k, v: modality_attention(q, k, v, given)  # noqa: B023, E731
        assert torch.autograd.gradcheck(call, tensors)
        assert torch.autograd.gradgradcheck(call, tensors)


def results(q, k, v, mask, cotangent, **options):
    """Output, weights and gradients; the weights have a gradient too."""
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    out, weights = modality_attention(*leaves, mask, return_weights=True, **options)
    loss = (out * cotangent.to(out)).sum() + weights.square().sum()
    return [out, weights, *torch.autograd.grad(loss, leaves)]


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('m', [1, 2, 3])
@pytest.mark.parametrize('masked', [False, True])
def test_half_precision_rounds_once(m, dtype, masked):
    """Products and sums are float32: one rounding of each result is left."""
    q, k, v = inputs(m, n=50, dtype=dtype)
    mask = torch.rand(2, m, 50, generator=torch.Generator().manual_seed(1)) > 0.3
    mask = mask if masked else None
    cotangent = inputs(m, n=50, dtype=torch.bfloat16)[0].flip(1)  # exact in both
    got = results(q, k, v, mask, cotangent)
    want = results(q.double(), k.double(), v.double(), mask, cotangent)
    assert [x.dtype for x in got] == [dtype, torch.float32, dtype, dtype, dtype]
    eps = torch.finfo(dtype).eps
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=eps / 2, atol=4e-6)


@pytest.mark.parametrize('m', [1, 2, 3])
def test_products_beyond_float16(m):
    """Of queries and keys, and of gradients and values; 65504 is the largest."""
    generator = torch.Generator().manual_seed(0)
    # Integers, so that sums of products are exact in float32.
    offset = torch.randint(0, 3, (2, m, 9, 2, 32), generator=generator).double()
    sign = torch.tensor([1.0, -1.0]).repeat(16)
    q = torch.full((2, 9, 2, 32), 300.0).double()
    k, v = 300 + offset, 300 * sign + offset.flip(2)
    assert (q[:, None] * k).sum(-1).min() > 65504
    want = results(q, k, v, None, q, scale=1e-4)
    got = results(*(x.half() for x in (q, k, v)), None, q, scale=1e-4)
    # Terms of up to 300 cancel one another in the float32 sums of gradients.
    for a, b, atol in zip(got, want, (0, 0, 3e-4, 3e-4, 3e-4), strict=True):
        torch.testing.assert_close(a.double(), b, rtol=2**-11, atol=atol)


def test_keys_further_apart_than_float16_reaches():
    """Two keys are subtracted from one another: in float32, too."""
    q, v = torch.ones(1, 1, 1, 1).half(), torch.ones(1, 2, 1, 1, 1).half()
    k = torch.tensor([6e4, -6e4]).half().view(1, 2, 1, 1, 1)
    _, weights = modality_attention(q, k, v, scale=2**-17, return_weights=True)
    want = (k.double() * 2**-17).softmax(1)
    torch.testing.assert_close(weights.flatten().double(), want.flatten())


@pytest.mark.parametrize('m', [2, 3])
def test_gradients_of_gradients_in_half_precision(m):
    """Through mixed dtypes: rounded values and first gradients are differentiated."""

    def second(q, k, v):
        leaves = [x.detach().requires_grad_() for x in (q, k, v)]
        out = modality_attention(*leaves)
        first = torch.autograd.grad(out.sum(), leaves, create_graph=True)
        loss = sum(x.square().sum(dtype=torch.float64) for x in first)
        return torch.autograd.grad(loss, leaves)

    tensors = inputs(m, dtype=torch.bfloat16)
    eps = torch.finfo(torch.bfloat16).eps
    wide = [x.double() for x in tensors]
    for a, b in zip(second(*tensors), second(*wide), strict=True):
        # First gradients, what is differentiated, and the result are rounded.
        size = b.abs().max().item()
        torch.testing.assert_close(a.double(), b, rtol=0, atol=eps * size)


@pytest.mark.parametrize('m', [2, 3, 4])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_no_copy_of_all_modalities(m, dtype):
    """The stacked form copies keys and values; here one product exists at a time."""
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 2048, 4, 16, generator=generator).to(dtype)
    k, v = (
        torch.randn(2, m, 2048, 4, 16, generator=generator).to(dtype) for _ in range(2)
    )
    size = q.numel() * 4
    ours = peak_bytes(lambda: modality_attention(q, k, v), 'cpu')
    # A CPU converts what is multiplied by a float32 first: one more, for any m.
    assert 0 < ours < (3 if dtype == torch.float32 else 3.5) * size
    if dtype == torch.float32:
        assert peak_bytes(lambda: modality_stacked(q, k, v), 'cpu') > 2 * m * size


Q, K, V = inputs(3)
BAD = {
    'axes': (dict(q=Q[0]), ValueError, 'q got .* expected 4 axes'),
    'number': (dict(v=V[:, 1:]), ValueError, 'k and v got 3 and 2 modalities'),
    'none': (dict(k=[], v=[]), ValueError, 'at least 1'),
    'one': (
        dict(k=K[:, 0]),
        ValueError,
        r'k got one tensor of the shape \(2, 5, 2, 4\), expected 5 axes',
    ),
    'integer': (dict(q=Q.long()), TypeError, 'q got torch.int64, expected a floating'),
    'device': (dict(v=V.to('meta')), ValueError, r"v\[0\] got tensors on .*'meta'"),
    'keys': (dict(k=K[:, :, 1:]), ValueError, r'k\[0\] got the shape'),
    'values': (dict(v=V[:, :, 1:]), ValueError, r'v\[0\] got the shape'),
    'dtype': (dict(k=K.half()), TypeError, r'k\[0\] and v\[0\] got torch.float16'),
    'mask': (dict(mask=torch.ones(2, 3, 5)), TypeError, 'expected torch.bool'),
    'size': (dict(mask=torch.ones(2, 4).bool()), ValueError, r'mask got .*\(2, 3, 5\)'),
}


@pytest.mark.parametrize('case', BAD, ids=list(BAD))
def test_bad_input(case):
    change, error, message = BAD[case]
    with pytest.raises(error, match=message) as caught:
        modality_attention(**{**dict(q=Q, k=K, v=V), **change})
    # What was got, what was expected, and then what to change.
    assert re.search(r' got .* expected .*\. [A-Z].*\.$', str(caught.value))
