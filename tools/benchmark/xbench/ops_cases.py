"""What is measured: each operation at named sizes, beside the other ways to it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from . import ops_forms

Form = Callable[..., Tensor]


@dataclasses.dataclass
class Case:
    """One operation at one size and dtype.

    Args:
        name: Operation and size.
        dtype: Dtype of the values.
        tensors: Floating tensors that gradients are taken by.
        forms: Name to function of the tensors; the first is ours.
        baseline: Form in another dtype than the case, by name; its tensors.
        bytes: That must move in a forward pass: every input and output once.
        bytes_training: The same for forward and backward.
    """

    name: str
    dtype: str
    tensors: list[Tensor]
    forms: dict[str, Form]
    baseline: dict[str, list[Tensor]]
    bytes: int
    bytes_training: int


DTYPES = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}


def _levels(sides: Sequence[tuple[int, int]], modalities: int = 1) -> list:
    return [tuple(side) for side in sides] * modalities


def _strides(height: int, width: int) -> list[tuple[int, int]]:
    return [(height // s, width // s) for s in (8, 16, 32)]


_DETR = [(100, 152), (50, 76), (25, 38), (13, 19)]
# Name: batch, levels, queries (0: one per place of one modality).
MSDA = {
    'Deformable-DETR encoder': (2, _levels(_DETR), 0),
    'Deformable-DETR decoder': (2, _levels(_DETR), 300),
    'Mask2Former 1024x1024': (1, _levels(_strides(1024, 1024)), 0),
    'two modalities 480x640': (2, _levels(_strides(480, 640), 2), 0),
    'two modalities 1024x2048': (1, _levels(_strides(1024, 2048), 2), 0),
}
QUICK_MSDA = {
    'encoder, small': (1, _levels([(12, 16), (6, 8)]), 0),
    'decoder, small': (2, _levels([(12, 16), (6, 8)]), 10),
}


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(x.numel() * x.element_size() for x in tensors)


def msda_inputs(
    batch: int, levels: list, queries: int, dtype: torch.dtype, device: str, seed: int
) -> list[Tensor]:
    """Draw values, locations and weights: 8 heads, 32 channels, 4 points.

    Queries that are places sample a few pixels around themselves, as a trained encoder
    does; other queries sample around a random point.
    """
    generator = torch.Generator(device).manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, device=device)

    places = sum(h * w for h, w in levels)
    unique = list(dict.fromkeys(levels))
    if queries:
        centre = torch.rand(batch, queries, 2, generator=generator, device=device)
    else:
        grids = [
            torch.cartesian_prod(torch.arange(h) / h, torch.arange(w) / w).flip(-1)
            for h, w in unique
        ]
        centre = torch.cat(grids).to(device).expand(batch, -1, 2)
    extent = torch.tensor([[w, h] for h, w in levels], device=device).view(-1, 1, 2)
    offsets = 2 * normal(batch, centre.shape[1], 8, len(levels), 4, 2) / extent
    weights = normal(*offsets.shape[:3], len(levels) * 4).softmax(-1)
    return [
        normal(batch, places, 8, 32).to(dtype),
        centre[:, :, None, None, None] + offsets,
        weights.view(offsets.shape[:-1]).to(dtype),
    ]


def msda_cases(device: str, dtypes: Sequence[str], quick: bool, seed: int) -> list:
    """Return deformable attention at the sizes of detectors and segmenters."""
    from mmseg_xmodal.ops import dispatch, multi_scale_deformable_attention

    cases = []
    for name, (batch, levels, queries) in (QUICK_MSDA if quick else MSDA).items():
        for dtype in dtypes:
            tensors = msda_inputs(batch, levels, queries, DTYPES[dtype], device, seed)

            def ours(v: Tensor, x: Tensor, w: Tensor, levels: list = levels) -> Tensor:
                return multi_scale_deformable_attention(v, levels, x, w)

            def plain(v: Tensor, x: Tensor, w: Tensor, levels: list = levels) -> Tensor:
                return multi_scale_deformable_attention(v, levels, x, w, 'torch')

            def mmcv(v: Tensor, x: Tensor, w: Tensor, levels: list = levels) -> Tensor:
                return multi_scale_deformable_attention(v, levels, x, w, 'mmcv')

            def composed(
                v: Tensor, x: Tensor, w: Tensor, levels: list = levels
            ) -> Tensor:
                return ops_forms.composition(v, levels, x, w)

            forms: dict[str, Form] = {'ours': ours, 'grid_sample': composed}
            baseline = {}
            if device.startswith('cuda'):
                forms['reference'] = plain
                if dispatch.mmcv_problem() is None:
                    forms['mmcv (fp32)'] = mmcv
                    baseline['mmcv (fp32)'] = [x.float() for x in tensors]
            out = tensors[0].new_empty((*tensors[1].shape[:2], 256), device='meta')
            once = _bytes([*tensors, out])
            # Backward reads inputs and output gradient, and writes a gradient of each
            # input: that of the values is added up in float32.
            back = once + _bytes(tensors[1:]) + 4 * tensors[0].numel()
            full = f'deformable, {name}'
            cases.append(Case(full, dtype, tensors, forms, baseline, once, once + back))
    return cases


def other_cases(device: str, dtypes: Sequence[str], quick: bool, seed: int) -> list:
    """Return criss-cross, windowed and modality attention."""
    cases = []
    for dtype in dtypes:
        generator = torch.Generator(device).manual_seed(seed)

        def draw(
            *size: int, g: torch.Generator = generator, dtype: str = dtype
        ) -> Tensor:
            return torch.randn(size, generator=g, device=device).to(DTYPES[dtype])

        for size in [(8, 12)] if quick else [(97, 97), (128, 256)]:
            channels = 16 if quick else 512
            q, k = (draw(1, channels // 8, *size) for _ in range(2))
            cases.append(_criss_cross(dtype, [q, k, draw(1, channels, *size)]))
        for m, size in [(2, (6, 8))] if quick else [(2, (120, 160)), (4, (120, 160))]:
            n = size[0] * size[1]
            q, k, v = draw(2, n, 8, 32), draw(2, m, n, 8, 32), draw(2, m, n, 8, 32)
            cases.append(_modality(f'{m} x {size[0]}x{size[1]}', dtype, [q, k, v]))
        size = (8, 8) if quick else (64, 80)
        maps = [draw(2, *size, 8, 32) for _ in range(3)]
        cases.append(_windowed(f'{size[0]}x{size[1]}, 8x8', dtype, maps))
    return cases


def _dense(
    name: str, dtype: str, tensors: list[Tensor], forms: dict, like: Tensor
) -> Case:
    """Make a case without a run: a kernel that fails does so in its own check."""
    once = _bytes([*tensors, like])
    both = 2 * once + _bytes(tensors)
    return Case(name, dtype, tensors, forms, {}, once, both)


def _back_ends(operation: Form, tensor: Tensor) -> dict[str, Form]:
    """On CUDA the kernel beside the PyTorch form, whatever 'auto' takes."""
    plain = functools.partial(operation, backend='torch')
    if not tensor.is_cuda:
        return {'ours': plain}
    return {'ours': functools.partial(operation, backend='triton'), 'reference': plain}


def _criss_cross(dtype: str, tensors: list[Tensor]) -> Case:
    from mmseg_xmodal.ops import criss_cross_attention

    height, width = tensors[0].shape[2:]
    forms = _back_ends(criss_cross_attention, tensors[0])
    forms['einsum'] = ops_forms.criss_cross_einsum
    return _dense(f'criss-cross, {height}x{width}', dtype, tensors, forms, tensors[2])


def _modality(name: str, dtype: str, tensors: list[Tensor]) -> Case:
    from mmseg_xmodal.ops import modality_attention

    forms = _back_ends(modality_attention, tensors[0])
    forms['SDPA'] = ops_forms.modality_stacked
    return _dense(f'modality, {name}', dtype, tensors, forms, tensors[0])


def _windowed(name: str, dtype: str, tensors: list[Tensor]) -> Case:
    from mmseg_xmodal.ops import windowed_cross_attention

    forms = {
        'ours': lambda q, k, v: windowed_cross_attention(q, k, v, 8),
        'SDPA': lambda q, k, v: ops_forms.windows_all_pairs(q, k, v, 8),
    }
    return _dense(f'windowed, {name}', dtype, tensors, forms, tensors[0])
