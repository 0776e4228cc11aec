"""Whether the operations are right on a device: what must hold before a time counts.

Every check draws new inputs from a seed, compares with float64, and raises
``AssertionError`` with the figure. The tests marked ``gpu`` are these functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from . import ops_cases, ops_forms

# Largest norm of the difference over the norm of the result. The inputs are those of
# the dtype exactly; float32 sums leave the rounding of the result, and of the sampled
# gradient where it is in the dtype.
TOLERANCE = {'fp32': 2e-5, 'bf16': 8e-3, 'fp16': 1e-3}
_LEVELS = [(25, 38), (0, 7), (13, 19), (1, 1)]
_NAMES = ('output', 'value', 'location', 'weight')
Check = Callable[[], None]


def relative(got: Tensor, want: Tensor) -> float:
    """Norm of the difference over the norm of the wanted; NaN stays NaN."""
    got, want = got.detach().double(), want.detach().double()
    return float((got - want).norm() / want.norm().clamp(min=1e-30))


def expect(name: str, got: Tensor, want: Tensor, tolerance: float) -> None:
    found = relative(got, want)
    if not found <= tolerance:  # NaN fails
        raise AssertionError(f'{name}: got {found:.2e}, allowed {tolerance:.0e}')


def poison(device: str, size: int = 1 << 28) -> None:
    """Leave NaN in the memory that the next allocations of the device reuse."""
    blocks = [
        torch.full((n // 4,), float('nan'), device=device)
        for n in (size, size // 16, size // 256, 4096, 1024)
    ]
    del blocks


def gradients(
    form: Callable[..., Tensor], tensors: list[Tensor], seed: int
) -> list[Tensor]:
    """Return the output and the gradients for a random output gradient."""
    leaves = [x.detach().requires_grad_() for x in tensors]
    out = form(*leaves)
    generator = torch.Generator(out.device).manual_seed(seed)
    cotangent = torch.randn(out.shape, generator=generator, device=out.device)
    # Rounded alike for every dtype that is compared.
    cotangent = cotangent.bfloat16().to(out.dtype)
    return [out, *torch.autograd.grad(out, leaves, cotangent)]


def msda(device: str, backend: str) -> Iterator[tuple[str, Check]]:
    """Checks of deformable attention in one back end."""
    from mmseg_xmodal.ops import multi_scale_deformable_attention
    from mmseg_xmodal.ops.msda.reference import composite

    def form(levels: list) -> Callable[..., Tensor]:
        return lambda v, x, w: multi_scale_deformable_attention(
            v, levels, x, w, backend
        )

    def equal(dtype: str, seed: int, queries: int, change: Callable) -> None:
        tensors = ops_cases.msda_inputs(
            2, _LEVELS, queries, ops_cases.DTYPES[dtype], device, seed
        )
        tensors[1] = (tensors[1] - 0.5) * 1.2 + 0.5
        tensors[1].nan_to_num_(0.5, 0.5, 0.5)  # the empty level divides by 0
        tensors = change(tensors)
        poison(device, 1 << 24)
        got = gradients(form(_LEVELS), tensors, seed)
        want = gradients(
            lambda v, x, w: composite(v, _LEVELS, x, w),
            [x.double() for x in tensors],
            seed,
        )
        for name, a, b in zip(_NAMES, got, want, strict=True):
            expect(f'{dtype} {name}', a, b, _kinks(name) or TOLERANCE[dtype])

    def _kinks(name: str) -> float | None:
        # At a pixel centre the derivative by the location jumps, and float32 may lie on
        # the other side of it than float64: rarely, but by the whole jump.
        return 2e-2 if name == 'location' else None

    same = lambda tensors: tensors  # noqa: E731
    for dtype in TOLERANCE:
        for seed in range(3):
            yield (
                f'{dtype}, seed {seed}',
                lambda d=dtype, s=seed: equal(d, s, 200, same),
            )
        yield f'{dtype}, one query', lambda d=dtype: equal(d, 5, 1, same)
    yield 'non-contiguous', lambda: equal('fp32', 6, 50, _apart)
    yield 'repeats', lambda: _repeats(form, device)
    yield 'deterministic', lambda: _deterministic(form, device)
    yield 'outside and NaN', lambda: _outside(form, device)


def _apart(tensors: list[Tensor]) -> list[Tensor]:
    return [x.transpose(1, 2).contiguous().transpose(1, 2) for x in tensors]


def _repeats(form: Callable, device: str, times: int = 20) -> None:
    """Where no sum is atomic every run gives the same bits; where it is, nearly."""
    levels = [(16, 20), (8, 10)]
    tensors = ops_cases.msda_inputs(2, levels, 0, torch.float32, device, 7)
    first = gradients(form(levels), tensors, 0)
    for _ in range(times):
        poison(device, 1 << 24)
        again = gradients(form(levels), tensors, 0)
        for i, name in enumerate(_NAMES):
            if name == 'value':
                expect(f'repeated {name}', again[i], first[i], 1e-6)
            elif not torch.equal(again[i], first[i]):
                raise AssertionError(f'repeated {name}: the bits differ')


def _deterministic(form: Callable, device: str, times: int = 10) -> None:
    levels = [(4, 5), (2, 3)]
    tensors = ops_cases.msda_inputs(2, levels, 2000, torch.float32, device, 8)
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        first = gradients(form(levels), tensors, 0)
        for _ in range(times):
            again = gradients(form(levels), tensors, 0)
            if not all(map(torch.equal, again, first)):
                raise AssertionError('deterministic: the bits differ')
    finally:
        torch.use_deterministic_algorithms(before)
    expect('deterministic', first[1], gradients(form(levels), tensors, 0)[1], 1e-5)


def _outside(form: Callable, device: str) -> None:
    value = torch.full((1, 6, 2, 32), 3.0, device=device)
    points = [(float('nan'), 0.5), (1e30, 0.5), (-1.0, 0.5), (0.5, float('inf'))]
    points += [(0.5, 0.5), (0.0, 0.5)]
    locations = torch.tensor(points, device=device).view(1, 6, 1, 1, 1, 2)
    out = form([(2, 3)])(
        value,
        locations.expand(-1, -1, 2, -1, -1, -1),
        torch.ones(1, 6, 2, 1, 1, device=device),
    )
    got = out[0, :, 0].tolist()
    if got != [0.0, 0.0, 0.0, 0.0, 3.0, 1.5]:
        raise AssertionError(f'outside: got {got}')


def wide_offsets(device: str, backend: str) -> None:
    """Values of more than 2**31 elements; needs 12 GiB."""
    from mmseg_xmodal.ops import multi_scale_deformable_attention

    levels = [(3000, 2900)]
    value = torch.empty(1, 8_700_000, 8, 32, dtype=torch.bfloat16, device=device)
    value.normal_()
    generator = torch.Generator(device).manual_seed(0)
    locations = torch.rand(1, 64, 8, 1, 4, 2, generator=generator, device=device)
    locations[:, :32] = 1 - locations[:, :32] / 100  # the end of the table
    weights = torch.rand(1, 64, 8, 1, 4, generator=generator, device=device)
    got = multi_scale_deformable_attention(value, levels, locations, weights, backend)
    torch.cuda.empty_cache()
    heads = [
        ops_forms.composition(
            value[:, :, i : i + 1].float(),
            levels,
            locations[:, :, i : i + 1],
            weights[:, :, i : i + 1],
        )
        for i in range(8)
    ]
    # grid_sample itself rounds coordinates near 3000 to 2e-4 pixels.
    expect('64-bit offsets', got, torch.cat(heads, dim=-1), 8e-3)


def others(device: str) -> Iterator[tuple[str, Check]]:
    """Checks of the other operations against float64."""
    for dtype in TOLERANCE:
        for case in ops_cases.other_cases(device, [dtype], True, seed=3):
            for form in [f for f in ('ours', 'reference') if f in case.forms]:
                yield (
                    f'{case.name}, {dtype}, {form}',
                    lambda c=case, d=dtype, f=form: _against(c, d, f),
                )


def _against(case: ops_cases.Case, dtype: str, form: str) -> None:
    plain = next(f for n, f in case.forms.items() if n not in ('ours', 'reference'))
    poison(case.tensors[0].device.type, 1 << 24)
    got = gradients(case.forms[form], case.tensors, 1)
    want = gradients(plain, [x.double() for x in case.tensors], 1)
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        # Weights and their gradients are rounded to the dtype between two products.
        tolerance = TOLERANCE[dtype] * (1 if dtype == 'fp32' else 4)
        expect(f'{case.name} {dtype} [{i}]', a, b, tolerance)


def all_checks(device: str) -> Iterator[tuple[str, Check]]:
    """Every check that can run on the device."""
    from mmseg_xmodal.ops import dispatch

    from . import ops_kernel_checks

    cuda = device.startswith('cuda')
    backends = ['torch']
    if cuda and dispatch.triton_problem() is None:
        backends.append('triton')
    for backend in backends:
        for name, check in msda(device, backend):
            yield f'deformable, {backend}: {name}', check
    if cuda and dispatch.mmcv_problem() is None:
        for name, check in msda(device, 'mmcv'):
            if name != 'deterministic':
                yield f'deformable, mmcv: {name}', check
    if 'triton' in backends and torch.cuda.mem_get_info(device)[0] > 40 << 30:
        yield '64-bit offsets', lambda: wide_offsets(device, 'triton')
    if 'triton' in backends:
        yield from ops_kernel_checks.criss_cross(device)
        yield from ops_kernel_checks.modality(device)
    yield from others(device)
