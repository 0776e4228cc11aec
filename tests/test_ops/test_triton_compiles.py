"""The Triton kernels are compiled for a GPU that need not be here.

The interpreter takes code that the compiler refuses, and knows no shared memory.
"""

from __future__ import annotations

import importlib
import importlib.util

import pytest
import torch

TARGET = 90  # compute capability
TYPES = {torch.float32: '*fp32', torch.bfloat16: '*bf16', torch.uint8: '*u8'}
SHARED = 99 * 1024  # bytes that a program may have on GPUs from 2020 on


def newest_triton():
    if importlib.util.find_spec('triton') is None:
        pytest.skip("Triton is not installed: pip install 'mmseg_xmodal[ops]' (Linux)")
    import triton

    if tuple(map(int, triton.__version__.split('.')[:2])) < (3, 3):
        pytest.skip(f'the compiler of Triton {triton.__version__} is called otherwise')
    return triton


class Compiled:
    """A kernel that is compiled where it would be launched."""

    def __init__(self, kernel, seen):
        self.kernel, self.seen = kernel, seen

    def __getitem__(self, grid):
        def run(*args, num_warps=4, num_stages=2, **constants):
            from triton.backends.compiler import GPUTarget
            from triton.compiler import ASTSource, compile

            bound = {
                **dict(zip(self.kernel.arg_names, args, strict=False)),
                **constants,
            }
            signature, known, aligned = {}, {}, {}
            for i, name in enumerate(self.kernel.arg_names):
                value = bound[name]
                if name in constants or (name.endswith('_c') and value == 1):
                    signature[name], known[(i,)] = 'constexpr', value
                elif isinstance(value, float):
                    signature[name] = 'fp32'
                else:
                    pointer = isinstance(value, torch.Tensor)
                    signature[name] = TYPES[value.dtype] if pointer else 'i32'
                    if pointer or not value % 16:
                        aligned[(i,)] = [['tt.divisibility', 16]]
            built = compile(
                ASTSource(self.kernel, signature, known, aligned),
                target=GPUTarget('cuda', TARGET, 32),
                options=dict(num_warps=num_warps, num_stages=num_stages),
            )
            self.seen[self.kernel.__name__] = built

        return run


@pytest.fixture
def compiled(monkeypatch):
    """What would be launched during the test, compiled, by the name of the kernel."""
    newest_triton()
    monkeypatch.delenv('TRITON_INTERPRET', raising=False)
    seen = {}
    package = 'mmseg_xmodal.ops'
    for module, names in {
        'modality_attention.triton_code': ['forward_kernel', 'backward_kernel'],
        'criss_cross.triton_kernel': [
            *('forward_kernel', 'query_kernel', 'key_kernel', 'mean_kernel')
        ],
        'criss_cross.triton_layout': ['copy_kernel'],
    }.items():
        where = importlib.import_module(f'{package}.{module}')
        for name in names:
            monkeypatch.setattr(where, name, Compiled(getattr(where, name), seen))
    return seen


@pytest.mark.slow
def test_modality_attention(compiled):
    from mmseg_xmodal.ops.modality_attention import triton_kernel

    q, *rest = torch.empty(5, 2, 300, 8, 32, dtype=torch.bfloat16)
    mask = torch.ones(2, 2, dtype=torch.bool)
    _, weights = triton_kernel.forward(q, rest[:2], rest[2:], mask, 0.1)
    triton_kernel.backward(q, weights, q, rest[:2], rest[2:], mask, weights, 0.1)
    assert sorted(compiled) == ['backward_kernel', 'forward_kernel']
    for kernel in compiled.values():
        assert kernel.metadata.shared <= SHARED


@pytest.mark.slow
def test_criss_cross(compiled):
    from mmseg_xmodal.ops.criss_cross import triton_kernel

    sizes = [(1, n, 64, 80) for n in (64, 64, 128)]
    q, k, v = (torch.empty(size, dtype=torch.bfloat16) for size in sizes)
    out, total = triton_kernel.forward(q, k, v, 1.0)
    triton_kernel.backward(out, q, k, v, out, total, 1.0)
    names = ['copy_kernel', 'forward_kernel', 'key_kernel', 'mean_kernel']
    assert sorted(compiled) == [*names, 'query_kernel']
    for kernel in compiled.values():
        assert kernel.metadata.shared <= SHARED
    for name in ('forward_kernel', 'key_kernel', 'query_kernel'):
        assert 'mma' in compiled[name].asm['ptx'], 'the products left the tensor cores'
