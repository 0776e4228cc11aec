"""Run by test_triton.py in a process of its own, under Triton's interpreter."""

from __future__ import annotations

import os

import pytest
import torch

if os.environ.get('TRITON_INTERPRET') != '1':
    pytest.skip('needs TRITON_INTERPRET=1 from the start', allow_module_level=True)

from mmseg_xmodal.ops import modality_attention
from mmseg_xmodal.ops.modality_attention import triton_kernel

CASES = {
    'one': dict(m=1),
    'two': dict(m=2),
    'three, wide heads': dict(m=3, d=40, dv=1),
    'eight': dict(m=8),
    'two, masked': dict(m=2, masked=True),
    'three, masked': dict(m=3, masked=True, dv=5),
    'whole modalities masked': dict(m=2, masked='whole'),
    'one tensor of all, masked': dict(m=3, masked=True, stacked=True),
    'no place': dict(m=2, n=0),
}


@pytest.fixture(autouse=True)
def launched(monkeypatch):
    """Count launches; blocks of 32 rows, for the interpreter is slow."""
    kinds = []
    original = triton_kernel._launch

    def launch(*args, **kwargs):
        kinds.append(args[1])
        return original(*args, **kwargs)

    monkeypatch.setattr(triton_kernel, '_launch', launch)
    monkeypatch.setattr(
        triton_kernel, 'tuned', dict.fromkeys(triton_kernel.tuned, (32, 4))
    )
    return kinds


def draw(m=2, n=13, d=4, dv=3, masked=False, dtype=torch.float32):
    """Queries, keys, values and a mask, under which some places see nothing."""
    generator = torch.Generator().manual_seed(m)

    def normal(width):
        return torch.randn(2, n, 2, width, generator=generator).to(dtype)

    q, k, v = normal(d), [normal(d) for _ in range(m)], [normal(dv) for _ in range(m)]
    mask = None
    if masked == 'whole':
        mask = torch.tensor([[True, False], [False, False]])
    elif masked:
        mask = torch.rand(2, m, n, generator=generator) > 0.6
        assert not mask.any(1).all()
    return q, k, v, mask


def grads(q, k, v, mask, backend, stacked=False, weighted=True):
    """Output, weights and gradients, for a gradient of the weights as well."""
    count = len(k)
    leaves = [x.detach().requires_grad_() for x in (q, *k, *v)]
    keys, values = leaves[1 : 1 + count], leaves[1 + count :]
    if stacked:
        keys, values = torch.stack(keys, 1), torch.stack(values, 1)
    out, weights = modality_attention(
        leaves[0], keys, values, mask, return_weights=True, backend=backend
    )
    generator = torch.Generator().manual_seed(9)
    cotangent = torch.randn(out.shape, generator=generator).bfloat16()
    loss = (out * cotangent.to(out)).sum()
    if weighted:
        by_weight = torch.randn(weights.shape, generator=generator)
        loss = loss + (weights * by_weight.to(weights)).sum()
    return [out, weights, *torch.autograd.grad(loss, leaves)]


def wanted(q, k, v, mask, **options):
    wide = q.double(), [x.double() for x in k], [x.double() for x in v]
    return grads(*wide, mask, 'torch', **options)


@pytest.mark.parametrize('case', CASES, ids=list(CASES))
@pytest.mark.parametrize('weighted', [False, True])
def test_equals_float64(case, weighted, launched):
    options = dict(CASES[case])
    stacked = options.pop('stacked', False)
    q, k, v, mask = draw(**options)
    want = wanted(q, k, v, mask, weighted=weighted)
    if mask is not None:
        # What is masked may hold anything.
        seen = mask if mask.dim() == 3 else mask[..., None].expand(-1, -1, q.shape[1])
        bad = [
            torch.where(s, 0.0, float('nan'))[..., None, None] for s in seen.unbind(1)
        ]
        k = [x + b for x, b in zip(k, bad, strict=True)]
        v = [x + b for x, b in zip(v, bad, strict=True)]
        q = torch.where(seen.any(1)[..., None, None], q, float('nan'))
    got = grads(q, k, v, mask, 'triton', stacked, weighted)
    assert launched == ([] if case == 'no place' else ['forward', 'backward'])
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    inputs = draw(m=3, masked=True, dtype=dtype)
    got, eps = grads(*inputs, 'triton'), torch.finfo(dtype).eps
    assert {x.dtype for x in got} == {dtype, torch.float32}
    for a, b in zip(got, wanted(*inputs), strict=True):
        # Sums are float32: one rounding of the result is left.
        torch.testing.assert_close(a.double(), b, rtol=eps, atol=eps / 64)


def test_views_of_one_projection_are_read_in_place(monkeypatch):
    """Queries, keys and values cut from one tensor differ from one another in nothing
    but the start; what has other strides is copied.
    """
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(2, 9, 5, 2, 4, generator=generator)
    q, k1, k2, v1, v2 = tokens.unbind(2)
    want = wanted(q, [k1, k2], [v1, v2], None)
    for keys in ([k1, k2], [k1, k2.contiguous()]):
        got = grads(q, keys, [v1, v2], None, 'triton')
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=2e-6)
    kept = triton_kernel._readable([k1, k2])
    assert kept[0] is k1
    assert triton_kernel._readable([k1, k2.contiguous()])[0].is_contiguous()


def test_64_bit_offsets(monkeypatch):
    inputs = draw(masked=True)
    want = wanted(*inputs)
    monkeypatch.setattr(triton_kernel, 'extent', lambda _: 2**31)
    for a, b in zip(grads(*inputs, 'triton'), want, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=2e-6)


def test_nine_modalities_are_refused():
    q, k, v, _ = draw(m=9)
    with pytest.raises(
        ValueError, match=r"got 'triton', expected .* up to 8 modalities"
    ):
        modality_attention(q, k, v, backend='triton')


def test_blocks_fill_the_device(monkeypatch):
    monkeypatch.setattr(triton_kernel, 'tuned', dict.fromkeys(triton_kernel.tuned))
    assert triton_kernel.block_shape(1 << 20, 32, 4, 'forward') == (16, 4)
    assert triton_kernel.block_shape(1 << 20, 20, 2, 'backward') == (32, 4)
    assert triton_kernel.block_shape(300, 32, 4, 'forward') == (4, 1)


def test_opcheck():
    q, k, v, mask = draw(masked=True)
    leaves = [x.requires_grad_() for x in (q, *k, *v)]
    torch.library.opcheck(
        torch.ops.xmodal.modality.default,
        (leaves[0], leaves[1:3], leaves[3:], mask, 0.5, 'triton'),
        test_utils=('test_schema', 'test_autograd_registration', 'test_faketensor'),
    )
