"""Whether the Triton kernels of criss-cross and modality attention are right.

Compiled kernels can be wrong where the interpreter is right: in a race, at the border
of a block, in what a cache held before. Each check draws new inputs, fills free memory
with NaN, and compares output and gradients with float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from . import ops_cases
from .ops_checks import TOLERANCE, Check, expect, gradients, poison

# (dtype, channels of queries and values, sizes). Few channels, for each compiles anew.
_CROSS = [
    ('fp32', (20, 40), [(33, 70), (1, 70), (70, 1), (2, 2), (1, 1), (130, 5)]),
    ('fp32', (64, 192), [(80, 96)]),
    ('bf16', (64, 200), [(80, 96), (33, 70)]),
    ('fp16', (16, 16), [(33, 70)]),
    ('bf16', (256, 32), [(33, 70)]),
]
_TIMES = 20


def _draw(
    seed: int, device: str, dtype: str, sizes: list[tuple[int, ...]]
) -> list[Tensor]:
    generator = torch.Generator(device).manual_seed(seed)
    return [
        torch.randn(size, generator=generator, device=device).to(
            ops_cases.DTYPES[dtype]
        )
        for size in sizes
    ]


def _equal(
    name: str, form: Callable, plain: Callable, tensors: list[Tensor], dtype: str
) -> None:
    poison(tensors[0].device.type, 1 << 26)
    got = gradients(form, tensors, 1)
    want = gradients(plain, [x.double() for x in tensors], 1)
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        if b.numel() and b.abs().max() < 1e-9:  # a query with one key has no gradient
            if not a.abs().max() <= 1e-5:
                raise AssertionError(f'{name} [{i}]: got {a.abs().max():.1e} for 0')
            continue
        # Weights and their gradients are rounded to the dtype between two products.
        expect(f'{name} [{i}]', a, b, TOLERANCE[dtype] * (1 if dtype == 'fp32' else 4))


def _same_bits(form: Callable, tensors: list[Tensor]) -> None:
    first = gradients(form, tensors, 0)
    for _ in range(_TIMES):
        poison(tensors[0].device.type, 1 << 26)
        if not all(map(torch.equal, gradients(form, tensors, 0), first)):
            raise AssertionError('repeated: the bits differ')


def criss_cross(device: str) -> Iterator[tuple[str, Check]]:
    """Checks of criss-cross attention in Triton."""
    from mmseg_xmodal.ops import criss_cross_attention
    from mmseg_xmodal.ops.criss_cross.reference import composite

    def form(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return criss_cross_attention(q, k, v, scale=0.3, backend='triton')

    def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return composite(q, k, v, 0.3)

    def draw(dtype: str, d: int, c: int, h: int, w: int, b: int = 2) -> list[Tensor]:
        return _draw(h * w, device, dtype, [(b, n, h, w) for n in (d, d, c)])

    def size(dtype: str, channels: tuple[int, int], size: tuple[int, int]) -> None:
        _equal(dtype, form, plain, draw(dtype, *channels, *size), dtype)

    def changed(change: Callable[[Tensor], Tensor]) -> None:
        tensors = [change(x) for x in draw('fp32', 20, 40, 33, 70)]
        _equal('strides', form, plain, tensors, 'fp32')

    def cancelling() -> None:
        # Values that share a large part: their gradients by scores nearly cancel.
        tensors = draw('bf16', 64, 200, 33, 70)
        tensors[2] = tensors[2] + 2
        _equal('cancelling', form, plain, tensors, 'bf16')

    for dtype, channels, sizes in _CROSS:
        for h, w in sizes:
            yield (
                f'criss-cross, triton: {dtype}, {channels}, {h}x{w}',
                lambda d=dtype, c=channels, s=(h, w): size(d, c, s),
            )
    for name, change in {
        'channels last': lambda x: x.to(memory_format=torch.channels_last),
        'transposed': lambda x: x.mT.contiguous().mT,
        'cut': lambda x: torch.cat([x, x], dim=3)[..., 3:-4],
    }.items():
        yield f'criss-cross, triton: {name}', lambda c=change: changed(c)
    yield 'criss-cross, triton: cancelling', cancelling
    for dtype, channels in (('fp32', (64, 192)), ('bf16', (64, 200))):
        yield (
            f'criss-cross, triton: repeats, {dtype}',
            lambda d=dtype, c=channels: _same_bits(form, draw(d, *c, 80, 96)),
        )


def modality(device: str) -> Iterator[tuple[str, Check]]:
    """Checks of attention over modalities in Triton."""
    from mmseg_xmodal.ops import modality_attention
    from mmseg_xmodal.ops.modality_attention.reference import composite

    def draw(dtype: str, m: int, d: int, dv: int, n: int = 1003) -> list[Tensor]:
        sizes = [(2, n, 3, d)] * (1 + m) + [(2, n, 3, dv)] * m
        return _draw(m, device, dtype, sizes)

    def forms(m: int, mask: Tensor | None, stacked: bool) -> tuple[Callable, Callable]:
        # Output and weights side by side: gradients come through both.
        def form(q: Tensor, *rest: Tensor) -> Tensor:
            keys, values = list(rest[:m]), list(rest[m:])
            k, v = keys, values
            if stacked:
                k, v = torch.stack(keys, 1), torch.stack(values, 1)
            out, weights = modality_attention(
                q, k, v, mask, return_weights=True, backend='triton'
            )
            return torch.cat([out.float(), weights.permute(0, 2, 3, 1)], -1)

        def plain(q: Tensor, *rest: Tensor) -> Tensor:
            scale = q.shape[-1] ** -0.5
            out, weights = composite(q, rest[:m], rest[m:], mask, scale)
            return torch.cat([out, weights.permute(0, 2, 3, 1)], -1)

        return form, plain

    def equal(
        dtype: str, m: int, d: int, dv: int, masked: str = '', stacked: bool = False
    ) -> None:
        tensors, mask = draw(dtype, m, d, dv), None
        if masked:
            size = (2, m, 1003) if masked == 'places' else (2, m)
            generator = torch.Generator(device).manual_seed(m)
            mask = torch.rand(size, generator=generator, device=device) > 0.5
            seen = mask if mask.dim() == 3 else mask[..., None].expand(2, m, 1003)
            for i in range(2 * m):
                gone = ~seen[:, i % m, :, None, None]
                tensors[1 + i] = tensors[1 + i].masked_fill(gone, float('nan'))
        _equal(dtype, *forms(m, mask, stacked), tensors, dtype)

    for dtype in TOLERANCE:
        for m in (1, 2, 3, 4):
            yield (
                f'modality, triton: {dtype}, {m}',
                lambda d=dtype, m=m: equal(d, m, 32, 32),
            )
    for m in (2, 3, 8):
        for masked in ('places', 'images'):
            yield (
                f'modality, triton: {m}, {masked} masked',
                lambda m=m, k=masked: equal('fp32', m, 40, 5, k),
            )
    yield (
        'modality, triton: one tensor of all',
        lambda: equal('bf16', 3, 32, 1, 'places', stacked=True),
    )
    yield (
        'modality, triton: repeats',
        lambda: _same_bits(forms(2, None, False)[0], draw('fp32', 2, 32, 32, 20_000)),
    )
    if device.startswith('cuda') and torch.cuda.mem_get_info(device)[0] > 16 << 30:
        yield 'modality, triton: 64-bit offsets', lambda: _far_apart(device)


def _far_apart(device: str) -> None:
    """Two images 2**31 elements apart; needs 8 GiB."""
    from mmseg_xmodal.ops import modality_attention
    from mmseg_xmodal.ops.modality_attention.reference import composite

    n, heads, d = 500, 8, 32
    memory = torch.empty((1 << 31) + 4096 * 64, dtype=torch.bfloat16, device=device)
    apart = (1 << 31, heads * d, d, 1)
    keys = [
        memory.as_strided((2, n, heads, d), apart, i * n * heads * d) for i in (0, 1)
    ]
    q, value = _draw(0, device, 'bf16', [(2, n, heads, d)] * 2)
    for key in keys:
        key.copy_(torch.randn_like(q))
    got = modality_attention(q, keys, [value, -value], backend='triton')
    wide = [x.double() for x in (q, *keys, value)]
    want = composite(wide[0], wide[1:3], [wide[3], -wide[3]], None, d**-0.5)[0]
    expect('64-bit offsets', got, want, TOLERANCE['bf16'])
