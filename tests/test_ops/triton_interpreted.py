"""Run by test_triton.py in a process of its own, under Triton's interpreter."""

from __future__ import annotations

import os

import pytest
import torch

if os.environ.get('TRITON_INTERPRET') != '1':
    pytest.skip('needs TRITON_INTERPRET=1 from the start', allow_module_level=True)

from mmseg_xmodal.ops import multi_scale_deformable_attention
from mmseg_xmodal.ops.msda import triton_kernel

from .inputs import LEVELS, msda_by_grid_sample, msda_inputs

SMALL = dict(dtype=torch.float32)
CASES = {
    'plain': dict(),
    'far outside': dict(spread=6.0),
    'empty levels': dict(shapes=[(0, 3), (4, 5), (2, 0)]),
    'one query': dict(queries=1, batch=1, heads=1, points=1),
    'full block': dict(queries=4, heads=4, channels=16, batch=1),
    'wide heads': dict(queries=2, channels=40, batch=1),
    'no query': dict(queries=0),
    'no image': dict(batch=0),
}


def grads(form, inputs, seed=1):
    tensors = [x.detach().requires_grad_() for x in inputs]
    out = form(*tensors)
    generator = torch.Generator().manual_seed(seed)
    cotangent = torch.randn(out.shape, generator=generator, dtype=torch.float64)
    return [out, *torch.autograd.grad(out, tensors, cotangent.to(out))]


def kernel(shapes=LEVELS):
    return lambda v, x, w: multi_scale_deformable_attention(v, shapes, x, w, 'triton')


def wanted(inputs, shapes=LEVELS):
    form = lambda v, x, w: msda_by_grid_sample(v, shapes, x, w)  # noqa: E731
    return grads(form, [x.double() for x in inputs])


@pytest.fixture(autouse=True)
def launched(monkeypatch):
    """Count launches: a test of the kernel must not pass without it."""
    kinds = []
    original = triton_kernel._launch

    def launch(*args, **kwargs):
        kinds.append(args[1])
        return original(*args, **kwargs)

    monkeypatch.setattr(triton_kernel, '_launch', launch)
    return kinds


@pytest.mark.parametrize('case', CASES, ids=list(CASES))
def test_equals_float64(case, launched):
    shapes = CASES[case].get('shapes', LEVELS)
    inputs = msda_inputs(**CASES[case], **SMALL)
    got = grads(kernel(shapes), inputs)
    empty = case in ('no query', 'no image')
    assert launched == ([] if empty else ['forward', 'backward'])
    want = wanted(inputs, shapes) if inputs[1].numel() else inputs
    if inputs[1].numel():
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=2e-5)
    else:
        assert not any(x.any() for x in got)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    inputs = msda_inputs(dtype=dtype)
    got = grads(kernel(), inputs)
    eps = torch.finfo(dtype).eps
    assert [x.dtype for x in got] == [dtype, dtype, torch.float32, dtype]
    for a, b in zip(got, wanted(inputs), strict=True):
        size = b.abs().max().item()
        torch.testing.assert_close(a.double(), b, rtol=2 * eps, atol=2 * eps * size)


def test_borders_and_not_a_number():
    """At integers and at the border the value is exact; what is outside is zero."""
    value = torch.tensor([4.0, 8.0]).view(1, 2, 1, 1)
    nan = float('nan')
    points = [
        (0.25, 0.5),
        (0.5, 0.5),
        (0.0, 0.5),
        (1.0, 0.5),
        (0.25, 0.0),
        (-0.25, 0.5),
    ]
    points += [(nan, 0.5), (0.5, nan), (1e30, 0.5), (float('inf'), 0.5)]
    locations = torch.tensor(points).view(1, 10, 1, 1, 1, 2)
    ones = torch.ones(1, 10, 1, 1, 1)
    out = kernel([(1, 2)])(value, locations, ones)
    assert out.flatten().tolist() == [4.0, 6.0, 2.0, 4.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0]


def test_gradients_on_whole_and_half_pixels_are_those_of_the_torch_form():
    """Layers start with samples on whole pixels, where the slope jumps."""
    shapes = [(2, 4), (1, 2)]
    steps = torch.arange(-3, 10) / 2
    x, y = (side.flatten() for side in torch.meshgrid(steps, steps, indexing='xy'))
    sizes = torch.tensor([[w, h] for h, w in shapes])
    pixels = torch.stack([x, y], -1)[:, None].expand(-1, len(shapes), -1)
    locations = ((pixels + 0.5) / sizes).view(1, -1, 1, len(shapes), 1, 2)
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(1, 10, 1, 4, generator=generator)
    inputs = [value, locations, torch.rand(locations.shape[:-1], generator=generator)]
    got = grads(kernel(shapes), inputs)
    form = lambda *x: multi_scale_deformable_attention(x[0], shapes, *x[1:], 'torch')  # noqa: E731
    for a, b in zip(got, grads(form, inputs), strict=True):
        torch.testing.assert_close(a, b)


def test_what_lies_outside_is_not_read():
    """Values beyond the samples may hold anything.

    In memory the next row's first place follows a row's last one, and the last place
    of the row before precedes a row's first: a sample across the border of the map must
    read neither.
    """
    value = torch.full((1, 3, 4, 1, 2), float('nan'))
    value[0, 1:, 3] = 1.0  # at the right edge, from the second row to the third
    value[0, :2, 0] = 2.0  # at the left edge, from the first row to the second
    pixels = torch.tensor([[3.25, 1.0], [-0.25, 0.0], [9.0, 9.0]])
    locations = (pixels + 0.5) / torch.tensor([4.0, 3.0])
    weights = torch.ones(1, 3, 1, 1, 1)
    got = grads(
        kernel([(3, 4)]),
        [value.view(1, 12, 1, 2), locations.view(1, 3, 1, 1, 1, 2), weights],
    )
    want = torch.tensor([0.75, 1.5, 0.0])[:, None].expand(3, 2)
    torch.testing.assert_close(got[0], want[None])
    assert all(x.isfinite().all() for x in got)


def test_non_contiguous_inputs():
    value, locations, weights = msda_inputs(**SMALL)
    apart = [
        value.transpose(1, 2).contiguous().transpose(1, 2),
        locations.transpose(1, 3).contiguous().transpose(1, 3),
        torch.stack([weights, weights], -1)[..., 0],
    ]
    assert not any(x.is_contiguous() for x in apart)
    got, want = grads(kernel(), apart), wanted([value, locations, weights])
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=2e-5)


def test_64_bit_offsets(monkeypatch):
    inputs = msda_inputs(queries=3, **SMALL)
    original = triton_kernel._forward_kernel, triton_kernel._backward_kernel
    seen = []

    class Wide:
        def __init__(self, inner):
            self.inner = inner

        def __getitem__(self, grid):
            def run(*args, **kwargs):
                seen.append(kwargs['WIDE'])
                return self.inner[grid](*args, **{**kwargs, 'WIDE': True})

            return run

    for name, inner in zip(('forward', 'backward'), original, strict=True):
        monkeypatch.setattr(triton_kernel, f'_{name}_kernel', Wide(inner))
    got = grads(kernel(), inputs)
    assert seen == [False, False]
    for a, b in zip(got, wanted(inputs), strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=2e-5)


def test_deterministic_algorithms_scatter_nothing(monkeypatch):
    inputs = msda_inputs(**SMALL)
    scattered = []
    original = triton_kernel._launch

    def launch(*args, **kwargs):
        scattered.append(kwargs.get('SCATTER'))
        return original(*args, **kwargs)

    monkeypatch.setattr(triton_kernel, '_launch', launch)
    torch.use_deterministic_algorithms(True)
    try:
        got = grads(kernel(), inputs)
    finally:
        torch.use_deterministic_algorithms(False)
    assert scattered == [None, False]
    for a, b in zip(got, wanted(inputs), strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize('index', [0, 1, 2])
def test_one_gradient_alone(index):
    inputs = msda_inputs(**SMALL)
    want = wanted(inputs)
    tensors = [x.requires_grad_(i == index) for i, x in enumerate(inputs)]
    out = kernel()(*tensors)
    generator = torch.Generator().manual_seed(1)
    cotangent = torch.randn(out.shape, generator=generator, dtype=torch.float64)
    (got,) = torch.autograd.grad(out, tensors[index], cotangent.float())
    torch.testing.assert_close(got.double(), want[1 + index], rtol=1e-4, atol=2e-5)


def test_opcheck():
    value, locations, weights = (x.requires_grad_() for x in msda_inputs(**SMALL))
    flat = [side for shape in LEVELS for side in shape]
    torch.library.opcheck(
        torch.ops.xmodal.msda.default, (value, flat, locations, weights, 'triton')
    )
