"""Run by test_triton.py in a process of its own, under Triton's interpreter."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

if os.environ.get('TRITON_INTERPRET') != '1':
    pytest.skip('needs TRITON_INTERPRET=1 from the start', allow_module_level=True)

import triton.language as tl
from triton.runtime import interpreter

from mmseg_xmodal.ops import criss_cross_attention
from mmseg_xmodal.ops.criss_cross import triton_kernel

CASES = {
    'plain': dict(size=(3, 4)),
    'several blocks': dict(size=(17, 2)),
    'one row': dict(size=(1, 4)),
    'one column': dict(size=(4, 1)),
    'one place': dict(size=(1, 1)),
    'two by two': dict(size=(2, 2), channels=(1, 1)),
    'wide': dict(channels=(20, 33)),
    'batch': dict(batch=2),
    'no image': dict(batch=0),
}


@pytest.fixture(autouse=True)
def launched(monkeypatch):
    """Count launches, in blocks of 16; products of bfloat16 as numbers.

    The interpreter keeps bfloat16 as its bits, and multiplies those.
    """
    kinds = []
    original, dot = (
        triton_kernel._Pass.launch,
        interpreter.InterpreterBuilder.create_dot,
    )

    def launch(self, kernel, kind, *args, **kwargs):
        kinds.append(f'{kind} {"rows" if self.rows else "columns"}')
        return original(self, kernel, kind, *args, **kwargs)

    def number(x):
        if x.dtype.scalar != tl.bfloat16:
            return x
        bits = x.data.astype(np.uint32) << 16
        return interpreter.TensorHandle(bits.view(np.float32), tl.float32)

    def create_dot(self, a, b, *rest):
        return dot(self, number(a), number(b), *rest)

    blocks = dict.fromkeys(triton_kernel.tuned, (16, 16, 4, 2))
    monkeypatch.setattr(triton_kernel, 'tuned', blocks)
    monkeypatch.setattr(triton_kernel._Pass, 'launch', launch)
    monkeypatch.setattr(interpreter.InterpreterBuilder, 'create_dot', create_dot)
    return kinds


def draw(size=(2, 3), batch=1, channels=(3, 5), dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(batch, c, *size, generator=generator).to(dtype)
        for c in (channels[0], *channels)
    ]


def grads(tensors, backend, scale=0.7):
    leaves = [x.detach().requires_grad_() for x in tensors]
    out = criss_cross_attention(*leaves, scale=scale, backend=backend)
    generator = torch.Generator().manual_seed(9)
    cotangent = torch.randn(out.shape, generator=generator).bfloat16()
    return [out, *torch.autograd.grad(out, leaves, cotangent.to(out))]


def close(got, tensors, rtol=1e-5, atol=3e-6, scale=0.7):
    want = grads([x.double() for x in tensors], 'torch', scale)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=rtol, atol=atol)


@pytest.mark.parametrize('case', CASES, ids=list(CASES))
def test_equals_float64(case, launched):
    tensors = draw(**CASES[case])
    close(grads(tensors, 'triton'), tensors)
    both = ['forward columns', 'forward rows', 'query columns', 'key columns']
    both += ['query rows', 'key rows']
    if case == 'no image':
        assert launched == []
    elif tensors[0].shape[2] == 1:  # a column would be the place itself
        assert launched == [kind for kind in both if 'rows' in kind]
    else:
        assert launched == both


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    tensors = draw(dtype=dtype)
    got, eps = grads(tensors, 'triton'), torch.finfo(dtype).eps
    assert {x.dtype for x in got} == {dtype}
    # Weights and their gradients are rounded to the dtype between two products.
    close(got, tensors, rtol=4 * eps, atol=4 * eps)


def test_slices_of_channels_add_up(monkeypatch):
    monkeypatch.setattr(triton_kernel, 'tuned_width', dict(forward=16, backward=16))
    tensors = draw(channels=(2, 20))
    close(grads(tensors, 'triton'), tensors)


@pytest.mark.parametrize('layout', ['channels last', 'transposed', 'cut'])
def test_any_strides(layout):
    tensors = draw()
    if layout == 'channels last':
        apart = [x.to(memory_format=torch.channels_last) for x in tensors]
    elif layout == 'transposed':
        apart = [x.transpose(2, 3).contiguous().transpose(2, 3) for x in tensors]
    else:
        apart = [torch.cat([x, x], dim=3)[..., : x.shape[3]] for x in tensors]
    got = grads(apart, 'triton')
    close(got, tensors)
    for a, b in zip(got, (apart[2], *apart), strict=True):
        assert a.stride() == torch.empty_like(b).stride()


def test_large_scores_do_not_overflow():
    tensors = draw()
    tensors[:2] = [x * 30 for x in tensors[:2]]
    # A score of 1000 is off by 1e-4 in float32, and its exponential by as much.
    close(grads(tensors, 'triton'), tensors, rtol=1e-3, atol=5e-3)


def test_too_many_channels_are_refused():
    tensors = draw(channels=(257, 1))
    with pytest.raises(
        ValueError, match=r"got 'triton', expected .* 1 to 256 channels"
    ):
        criss_cross_attention(*tensors, backend='triton')


def test_blocks_fit_into_registers_and_shared_memory(monkeypatch):
    monkeypatch.setattr(triton_kernel, 'tuned', dict.fromkeys(triton_kernel.tuned))
    shape = triton_kernel.block_shape
    assert shape(256, 64, 128, 2, 'forward') == (64, 64, 4, 2)
    assert shape(256, 64, 128, 4, 'forward') == (64, 32, 4, 2)
    assert shape(256, 64, 64, 4, 'key') == (32, 64, 4, 2)
    assert shape(256, 256, 128, 4, 'query') == (16, 16, 4, 2)
    assert shape(20, 16, 16, 4, 'forward') == (32, 32, 4, 2)


def test_opcheck():
    inputs = [x.requires_grad_() for x in draw(size=(2, 2))]
    torch.library.opcheck(
        torch.ops.xmodal.criss_cross.default,
        (*inputs, 0.5, 'triton'),
        test_utils=('test_schema', 'test_autograd_registration', 'test_faketensor'),
    )
