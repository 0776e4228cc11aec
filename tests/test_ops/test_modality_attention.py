from __future__ import annotations

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


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('m', [2, 3])
def test_half_precision(m, dtype):
    q, k, v = inputs(m, n=50, dtype=dtype)
    got = modality_attention(q, k, v)
    want = modality_attention(q.double(), k.double(), v.double())
    eps = torch.finfo(dtype).eps
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), want, rtol=8 * eps, atol=8 * eps)


@pytest.mark.parametrize('m', [2, 3])
def test_no_copy_of_all_modalities(m):
    """The stacked form copies keys and values; here one product exists at a time."""
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 2048, 4, 16, generator=generator)
    k, v = (torch.randn(2, m, 2048, 4, 16, generator=generator) for _ in range(2))
    size = q.numel() * 4
    ours = peak_bytes(lambda: modality_attention(q, k, v), 'cpu')
    assert 0 < ours < 3 * size
    assert peak_bytes(lambda: modality_stacked(q, k, v), 'cpu') > 2 * m * size


Q, K, V = inputs(3)
BAD = {
    'axes': (dict(q=Q[0]), ValueError, 'q got .* expected 4 axes'),
    'number': (dict(v=V[:, 1:]), ValueError, 'k and v got 3 and 2 modalities'),
    'none': (dict(k=[], v=[]), ValueError, 'at least 1'),
    'keys': (dict(k=K[:, :, 1:]), ValueError, r'k\[0\] got the shape'),
    'values': (dict(v=V[:, :, 1:]), ValueError, r'v\[0\] got the shape'),
    'dtype': (dict(k=K.half()), TypeError, r'k\[0\] and v\[0\] got torch.float16'),
    'mask': (dict(mask=torch.ones(2, 3, 5)), TypeError, 'expected torch.bool'),
    'size': (dict(mask=torch.ones(2, 4).bool()), ValueError, r'mask got .*\(2, 3, 5\)'),
}


@pytest.mark.parametrize('case', BAD, ids=list(BAD))
def test_bad_input(case):
    change, error, message = BAD[case]
    with pytest.raises(error, match=message):
        modality_attention(**{**dict(q=Q, k=K, v=V), **change})
