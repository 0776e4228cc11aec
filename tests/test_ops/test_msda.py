from __future__ import annotations

import re

import pytest
import torch

from mmseg_xmodal.ops import multi_scale_deformable_attention
from mmseg_xmodal.ops.msda import mmcv_backend, reference

from .inputs import LEVELS, msda_by_grid_sample, msda_inputs

from xbench.ops_forms import composition  # isort: skip  # path of the conftest
from xbench.ops_measure import peak_bytes  # isort: skip

attend = multi_scale_deformable_attention
CASES = {
    'plain': dict(),
    'one query': dict(queries=1),
    'far outside': dict(spread=6.0),
    'empty levels': dict(shapes=[(0, 3), (4, 5), (2, 0)]),
    'one place': dict(shapes=[(1, 1)], points=1, heads=1),
    'no query': dict(queries=0),
    'no image': dict(batch=0),
    'no channel': dict(channels=0),
    'no head': dict(heads=0),
    'no point': dict(points=0),
}


def grads(form, value, locations, weights, seed=1):
    tensors = [x.detach().requires_grad_() for x in (value, locations, weights)]
    out = form(*tensors)
    generator = torch.Generator().manual_seed(seed)
    cotangent = torch.randn(out.shape, generator=generator, dtype=torch.float64)
    return [out, *torch.autograd.grad(out, tensors, cotangent.to(out))]


@pytest.mark.parametrize('case', CASES, ids=list(CASES))
def test_equals_grid_sample(case):
    shapes = CASES[case].get('shapes', LEVELS)
    inputs = msda_inputs(**CASES[case])
    got = grads(lambda v, x, w: attend(v, shapes, x, w), *inputs)
    if inputs[1].numel():
        want = grads(lambda v, x, w: msda_by_grid_sample(v, shapes, x, w), *inputs)
    else:
        want = [torch.zeros_like(x) for x in got]
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)


def test_only_empty_levels_give_zero():
    value, locations, weights = msda_inputs(shapes=[(0, 3), (2, 0)])
    out = attend(value, [(0, 3), (2, 0)], locations, weights)
    assert out.shape == (2, 7, 10)
    assert not out.any()


def test_borders():
    """At the border of a map half of a sample is outside, and is zero."""
    value = torch.tensor([4.0, 8.0], dtype=torch.float64).view(1, 2, 1, 1)
    # One row of two pixels, with centres at x = 0.25 and 0.75, y = 0.5.
    points = [
        (0.25, 0.5),
        (0.5, 0.5),
        (0.0, 0.5),
        (1.0, 0.5),
        (0.25, 0.0),
        (-0.25, 0.5),
    ]
    locations = torch.tensor(points, dtype=torch.float64).view(1, 6, 1, 1, 1, 2)
    out = attend(value, [(1, 2)], locations, torch.ones(1, 6, 1, 1, 1).double())
    assert out.flatten().tolist() == [4.0, 6.0, 2.0, 4.0, 2.0, 0.0]


def test_not_a_number_lies_outside():
    value, locations, weights = msda_inputs(dtype=torch.float32)
    locations[0, 0] = float('nan')
    locations[0, 1] = 1e30
    out = attend(value, LEVELS, locations, weights)
    assert not out[0, :2].any()
    assert out.isfinite().all()


def test_gradcheck():
    inputs = [x.requires_grad_() for x in msda_inputs(queries=3, points=2)]
    call = lambda v, x, w: attend(v, LEVELS, x, w)  # noqa: E731
    assert torch.autograd.gradcheck(call, inputs)


def test_a_sample_on_the_edge_has_no_slope():
    """At pixel -1 and at the width it is outside, as in the kernels."""
    value = torch.rand(1, 3, 1, 1, dtype=torch.float64)
    x = (torch.tensor([-1.0, 3.0, 0.0], dtype=torch.float64) + 0.5) / 3
    locations = torch.stack([x, torch.full_like(x, 0.5)], -1).view(1, 3, 1, 1, 1, 2)
    locations.requires_grad_()
    weights = torch.ones(1, 3, 1, 1, 1, dtype=torch.float64)
    for form in (attend, reference.composite):
        out = form(value, [(1, 3)], locations, weights)
        (slope,) = torch.autograd.grad(out.sum(), locations)
        assert slope[0, :2].abs().max() == 0
        step = (value[0, 1] - value[0, 0]).item()
        torch.testing.assert_close(slope[0, 2, 0, 0, 0, 0].item(), 3 * step)


@pytest.mark.parametrize('case', ['no point', 'no head', 'no channel', 'empty levels'])
def test_second_gradients_of_nothing_are_zero(case):
    shapes = [(0, 2)] if case == 'empty levels' else LEVELS
    settings = {} if case == 'empty levels' else CASES[case]
    inputs = [x.requires_grad_() for x in msda_inputs(shapes, **settings)]
    out = attend(inputs[0], shapes, *inputs[1:])
    first = torch.autograd.grad(
        out, inputs, torch.ones_like(out).requires_grad_(), create_graph=True
    )
    second = torch.autograd.grad(sum(x.sum() for x in first), inputs, allow_unused=True)
    assert not any(x is not None and x.any() for x in second)


def test_sides_that_float32_cannot_count():
    value = torch.zeros(1, 2**24 + 3, 1, 1)
    with pytest.raises(ValueError, match='expected no side above 16777216'):
        attend(
            value,
            [(1, 2**24 + 3)],
            torch.zeros(1, 1, 1, 1, 1, 2),
            torch.ones(1, 1, 1, 1, 1),
        )


def test_gradients_of_gradients():
    shapes = [(3, 2), (1, 2)]
    inputs = msda_inputs(shapes, batch=1, queries=2, heads=1, channels=2, points=2)
    inputs = [x.requires_grad_() for x in inputs]
    call = lambda v, x, w: attend(v, shapes, x, w)  # noqa: E731
    assert torch.autograd.gradgradcheck(call, inputs)


@pytest.mark.parametrize('needed', [(0,), (1,), (2,), (0, 2), (1, 2)])
def test_only_the_gradients_that_are_asked_for(needed):
    inputs = msda_inputs()
    every = grads(lambda v, x, w: attend(v, LEVELS, x, w), *inputs)
    tensors = [x.requires_grad_(i in needed) for i, x in enumerate(inputs)]
    out = attend(tensors[0], LEVELS, *tensors[1:])
    generator = torch.Generator().manual_seed(1)
    cotangent = torch.randn(out.shape, generator=generator, dtype=torch.float64)
    some = torch.autograd.grad(out, [tensors[i] for i in needed], cotangent)
    for i, grad in zip(needed, some, strict=True):
        torch.testing.assert_close(grad, every[1 + i])


def test_non_contiguous_inputs():
    value, locations, weights = msda_inputs()
    apart = [
        value.transpose(1, 2).contiguous().transpose(1, 2),
        locations.transpose(1, 3).contiguous().transpose(1, 3),
        torch.stack([weights, weights], -1)[..., 0],
    ]
    assert not any(x.is_contiguous() for x in apart)
    form = lambda v, x, w: attend(v, LEVELS, x, w)  # noqa: E731
    got, want = grads(form, *apart), grads(form, value, locations, weights)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_rounds_once(dtype):
    """Sums are float32: the result is that of the rounded inputs, rounded once."""
    value, locations, weights = msda_inputs(dtype=dtype, queries=30, points=8)
    got = grads(lambda v, x, w: attend(v, LEVELS, x, w), value, locations, weights)
    inputs = [x.double() for x in (value, locations, weights)]
    want = grads(lambda v, x, w: attend(v, LEVELS, x, w), *inputs)
    assert [x.dtype for x in got] == [dtype, dtype, torch.float32, dtype]
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(got[0].double(), want[0], rtol=eps, atol=1e-6)
    # The cotangent is rounded too.
    for a, b in zip(got[1:], want[1:], strict=True):
        size = b.abs().max().item()
        torch.testing.assert_close(a.double(), b, rtol=2 * eps, atol=2 * eps * size)


def test_coordinates_are_not_rounded_to_the_values():
    """On a map 512 wide bfloat16 coordinates would be off by up to a pixel."""
    ramp = torch.arange(512.0).view(1, 512, 1, 1) / 512
    x = torch.rand(1, 200, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    x = x * 0.98 + 0.01
    locations = torch.stack([x, torch.full_like(x, 0.5)], -1)
    out = attend(ramp.bfloat16(), [(1, 512)], locations, torch.ones_like(x).bfloat16())
    wanted = (x.flatten() * 512 - 0.5) / 512
    relative = ((out.float().flatten() - wanted) / wanted).abs().max()
    assert relative < 3 * torch.finfo(torch.bfloat16).eps / 2
    rounded = attend(ramp, [(1, 512)], locations.bfloat16().float(), torch.ones_like(x))
    assert (rounded.flatten() - wanted).abs().max() > 0.5 / 512


def test_an_expanded_gradient():
    """The gradient that ``sum`` gives has strides of 0."""
    inputs = [x.requires_grad_() for x in msda_inputs()]
    out = attend(inputs[0], LEVELS, *inputs[1:])
    want = torch.autograd.grad(out, inputs, torch.ones_like(out), retain_graph=True)
    for a, b in zip(torch.autograd.grad(out.sum(), inputs), want, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize('limit', [1, 64])
def test_blocks_change_nothing(monkeypatch, limit):
    inputs = msda_inputs()
    form = lambda v, x, w: attend(v, LEVELS, x, w)  # noqa: E731
    want = grads(form, *inputs)
    monkeypatch.setattr(reference, '_CORNERS', dict(cpu=limit, cuda=limit))
    monkeypatch.setattr(reference, '_GATHERED', dict(cpu=limit, cuda=limit))
    for a, b in zip(grads(form, *inputs), want, strict=True):
        torch.testing.assert_close(a, b)


def test_mmcv_is_not_asked_for_no_image(monkeypatch):
    """It divides the batch into steps, by a remainder."""
    monkeypatch.setattr(mmcv_backend, '_extension', lambda: None)
    value, locations, weights = inputs = msda_inputs(batch=0)
    out = mmcv_backend.forward(value, LEVELS, locations, weights)
    assert out.shape == (0, 7, 10)
    grads_ = mmcv_backend.backward(out, value, LEVELS, locations, weights)
    assert [x.shape for x in grads_] == [x.shape for x in inputs]


@pytest.mark.parametrize('batch', [0, 2])
def test_composite_equals_the_operator(batch):
    inputs = msda_inputs(shapes=[(0, 2), *LEVELS], batch=batch)
    shapes = [(0, 2), *LEVELS]
    torch.testing.assert_close(
        reference.composite(inputs[0], shapes, *inputs[1:]),
        attend(inputs[0], shapes, *inputs[1:]),
    )


@pytest.mark.parametrize('backward', [False, True], ids=['forward', 'backward'])
def test_takes_less_memory_than_grid_sample(backward):
    """At most half, at a small size; the samples alone would be 12 MiB."""
    shapes = [(24, 32), (12, 16), (6, 8)]
    inputs = msda_inputs(
        shapes, 1, queries=1008, heads=8, channels=32, points=4, dtype=torch.float32
    )

    def step(form):
        if backward:
            return lambda: grads(lambda v, x, w: form(v, shapes, x, w), *inputs)
        return lambda: form(inputs[0], shapes, *inputs[1:])

    ours = peak_bytes(step(attend), 'cpu')
    assert 0 < ours < peak_bytes(step(composition), 'cpu') / 2


def test_the_reference_composition_is_right():
    inputs = msda_inputs()
    torch.testing.assert_close(
        composition(inputs[0], LEVELS, *inputs[1:]),
        msda_by_grid_sample(inputs[0], LEVELS, *inputs[1:]),
    )


BAD = {
    'places': (lambda v, x, w: (v[:, 1:], x, w), r'value got 38 places, expected 39'),
    'axes': (lambda v, x, w: (v[0], x, w), r'value got the shape .* expected 4 axes'),
    'levels': (lambda v, x, w: (v, x[:, :, :, 1:], w), r'locations got the shape'),
    'heads': (lambda v, x, w: (v[:, :, 1:], x, w), r'locations got the shape'),
    'points': (lambda v, x, w: (v, x, w[..., 1:]), r'weights got the shape'),
    'integer': (lambda v, x, w: (v.long(), x, w), r'value got torch.int64, expected'),
    'half': (
        lambda v, x, w: (v, x.half(), w),
        r'locations got torch.float16, expected',
    ),
    'device': (lambda v, x, w: (v, x.to('meta'), w), r"locations got .* on 'meta'"),
}


@pytest.mark.parametrize('case', BAD, ids=list(BAD))
def test_bad_input(case):
    change, message = BAD[case]
    value, locations, weights = change(*msda_inputs())
    with pytest.raises((ValueError, TypeError), match=message) as error:
        attend(value, LEVELS, locations, weights)
    # What was got, what was expected, and then what to change.
    assert re.search(r' got .* expected .*\. [A-Z].*\.$', str(error.value))


@pytest.mark.parametrize(
    ('levels', 'got'),
    [
        ([(-2, -2), (7, 5)], r'\[\(-2, -2\), \(7, 5\)\], expected no negative side'),
        ([5, 4, 3, 6, 1, 1], r'\[5, 4, 3, 6, 1, 1\], expected one pair'),
        ([(5, 4, 3)], r'\[\(5, 4, 3\)\], expected one pair'),
        ([(5, 4), (3.5, 2)], r'\[\(5, 4\), \(3.5, 2\)\], expected one pair'),
        ([(float('inf'), 1)], r'\[\(inf, 1\)\], expected one pair'),
        (39, '39, expected one pair'),
    ],
)
def test_bad_level_shapes(levels, got):
    """Told apart from values of another size: (-2) * (-2) is 4 places, too."""
    value, locations, weights = msda_inputs()
    with pytest.raises(ValueError, match=rf'level_shapes got {got}.*\. Pa'):
        attend(value, levels, locations, weights)


def test_level_shapes_in_other_forms():
    value, locations, weights = msda_inputs()
    want = attend(value, LEVELS, locations, weights)
    for levels in (torch.tensor(LEVELS), [list(x) for x in LEVELS], tuple(LEVELS)):
        assert torch.equal(attend(value, levels, locations, weights), want)
