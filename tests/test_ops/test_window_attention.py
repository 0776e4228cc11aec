from __future__ import annotations

import re

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from mmseg_xmodal.ops import window_attention, windowed_cross_attention

from xbench.ops_forms import windows_all_pairs  # isort: skip  # path of the conftest


def draw(*size, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)


def by_loops(q, k, v, window, mask):
    """One query at a time over the keys of its window in all maps."""
    out = q.new_zeros(*q.shape[:-1], v.shape[-1])
    b, h, w, heads, channels = q.shape
    for n, i, j, head in torch.cartesian_prod(*map(torch.arange, (b, h, w, heads))):
        top, left = i // window[0] * window[0], j // window[1] * window[1]
        rows, columns = slice(top, top + window[0]), slice(left, left + window[1])
        allowed = mask[n, :, rows, columns].flatten()
        if not allowed.any():
            continue
        keys = k[n, :, rows, columns, head].reshape(-1, channels)[allowed]
        values = v[n, :, rows, columns, head].reshape(-1, v.shape[-1])[allowed]
        scores = keys @ q[n, i, j, head] * channels**-0.5
        out[n, i, j, head] = scores.softmax(0) @ values
    return out


@pytest.mark.parametrize('size', [(4, 6), (5, 7), (1, 1)])
def test_equals_one_query_at_a_time(size):
    q, k = draw(2, *size, 2, 3), draw(2, 2, *size, 2, 3, seed=1)
    v = draw(2, 2, *size, 2, 4, seed=2)
    mask = draw(2, 2, *size, seed=3) > 0
    got = windowed_cross_attention(q, k, v, (2, 3), mask)
    torch.testing.assert_close(got, by_loops(q, k, v, (2, 3), mask))


@pytest.mark.parametrize('size', [(6, 6), (5, 8)])
def test_equals_global_attention_under_a_mask(size):
    q, k, v = (draw(2, *size, 2, 3, seed=i) for i in range(3))
    torch.testing.assert_close(
        windowed_cross_attention(q, k, v, 3), windows_all_pairs(q, k, v, 3)
    )


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_nothing_to_attend_to_gives_zero(dtype):
    q, k, v = (draw(1, 4, 4, 1, 4, seed=i, dtype=dtype) for i in range(3))
    mask = torch.ones(1, 4, 4, dtype=torch.bool)
    mask[:, :2, :2] = False
    tensors = [x.requires_grad_() for x in (q, k, v)]
    out = windowed_cross_attention(*tensors, 2, mask)
    assert not out[:, :2, :2].any()
    assert out[:, 2:, 2:].all()
    for grad in torch.autograd.grad(out.sum(), tensors):
        assert grad.isfinite().all()
        assert not grad[:, :2, :2].any()


def test_a_masked_key_may_hold_anything():
    q, k, v = (draw(1, 4, 4, 1, 4, seed=i).requires_grad_() for i in range(3))
    mask = draw(1, 4, 4, seed=5) > 0
    want = windowed_cross_attention(q, k, v, 2, mask)
    bad = torch.where(mask[..., None, None], 0.0, float('nan'))
    out = windowed_cross_attention(q, k + bad, v + bad, 2, mask)
    torch.testing.assert_close(out, want)
    assert torch.autograd.grad(out.sum(), q)[0].isfinite().all()


def test_gradcheck():
    tensors = [draw(1, 3, 4, 1, 2, seed=i).requires_grad_() for i in range(3)]
    mask = draw(1, 3, 4, seed=5) > -1
    assert torch.autograd.gradcheck(
        lambda q, k, v: windowed_cross_attention(q, k, v, 2, mask), tensors
    )


@pytest.mark.parametrize('masked', [False, True])
def test_the_plain_form_is_differentiable_twice(masked):
    """The fused kernels are not; the docstring says how to avoid them."""
    tensors = [draw(1, 3, 4, 1, 2, seed=i).requires_grad_() for i in range(3)]
    mask = draw(1, 3, 4, seed=5) > -1 if masked else None
    with sdpa_kernel(SDPBackend.MATH):
        assert torch.autograd.gradgradcheck(
            lambda q, k, v: windowed_cross_attention(q, k, v, 2, mask), tensors
        )


BAD = {
    'axes': (dict(q=draw(2, 4, 4, 6)), ValueError, 'q got .* expected 5 axes'),
    'keys': (dict(k=draw(2, 4, 5, 2, 3)), ValueError, 'k got the shape'),
    'values': (dict(v=draw(2, 4, 5, 2, 3)), ValueError, 'v got the shape'),
    'maps': (
        dict.fromkeys('kv', draw(2, 0, 4, 4, 2, 3)),
        ValueError,
        r'k got the shape \(2, 0, .* expected at least one map',
    ),
    'dtype': (dict(k=draw(2, 4, 4, 2, 3).half()), TypeError, 'expected one floating'),
    'integer': (
        dict.fromkeys('qkv', draw(2, 4, 4, 2, 3).long()),
        TypeError,
        'q, k and v got torch.int64',
    ),
    'device': (
        dict(v=draw(2, 4, 4, 2, 3).to('meta')),
        ValueError,
        "v got a tensor on 'meta', expected 'cpu' as q",
    ),
    'where': (
        dict(key_mask=torch.ones(2, 4, 4).bool().to('meta')),
        ValueError,
        "key_mask got a tensor on 'meta', expected 'cpu' as q",
    ),
    'mask': (dict(key_mask=torch.ones(2, 4, 4)), TypeError, 'expected torch.bool'),
    'masked': (
        dict(key_mask=torch.ones(2, 4, 5).bool()),
        ValueError,
        r'key_mask got .* expected \(2, 4, 4\)',
    ),
    'window': (dict(window=0), ValueError, r'window got 0, expected .* at least'),
    'broken': (dict(window=2.0), ValueError, r'window got 2.0, expected .* whole'),
    'sides': (dict(window=(2, 2, 2)), ValueError, r'window got \(2, 2, 2\), expected'),
    'heads': (
        dict.fromkeys('qkv', draw(2, 4, 4, 0, 3)),
        ValueError,
        r'q got .* expected at least one head',
    ),
}


@pytest.mark.parametrize('case', BAD, ids=list(BAD))
def test_bad_input(case):
    change, error, message = BAD[case]
    good = dict.fromkeys('qkv', draw(2, 4, 4, 2, 3))
    with pytest.raises(error, match=message) as caught:
        windowed_cross_attention(**{**good, 'window': 2, **change})
    # What was got, what was expected, and then what to change.
    assert re.search(r' got .* expected .*\. [A-Z].*\.$', str(caught.value))


@pytest.mark.parametrize('masked', [False, True])
def test_more_windows_than_a_launch_takes(monkeypatch, masked):
    q, k, v = (draw(2, 6, 8, 2, 4, seed=i) for i in range(3))
    mask = draw(2, 6, 8, seed=3) > 0 if masked else None
    whole = windowed_cross_attention(q, k, v, 2, mask)
    sizes = []
    attend = window_attention._attend_at_once

    def counted(q, *rest):
        sizes.append(len(q))
        return attend(q, *rest)

    monkeypatch.setattr(window_attention, '_attend_at_once', counted)
    monkeypatch.setattr(window_attention, '_MOST_WINDOWS', 10)
    torch.testing.assert_close(windowed_cross_attention(q, k, v, 2, mask), whole)
    assert sizes == [10, 10, 4]
