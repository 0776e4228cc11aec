"""What attention over modalities refuses, and what to change then."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

NAME = 'modality_attention'


def _split(name: str, x: Tensor | Sequence[Tensor]) -> list[Tensor]:
    if not isinstance(x, Tensor):
        return list(x)
    if x.dim() != 5:
        raise ValueError(
            f'{NAME}: {name} got one tensor of the shape {tuple(x.shape)}, expected 5 '
            'axes (B, M, N, heads, D). Stack the modalities on axis 1, or pass a list '
            'of them.'
        )
    return list(x.unbind(1))


def check(
    q: Tensor,
    k: Tensor | Sequence[Tensor],
    v: Tensor | Sequence[Tensor],
    mask: Tensor | None,
) -> None:
    """Refuse what :func:`.api.modality_attention` cannot take.

    Raises:
        TypeError: For a mask that is not boolean, or a dtype that does not fit.
        ValueError: For shapes that do not add up, or tensors on several devices.
    """
    if q.dim() != 4:
        raise ValueError(
            f'{NAME}: q got the shape {tuple(q.shape)}, expected 4 axes '
            '(B, N, heads, D). Flatten the places and split the channels into heads.'
        )
    if not q.is_floating_point():
        raise TypeError(
            f'{NAME}: q got {q.dtype}, expected a floating dtype. Convert it with '
            '.to().'
        )
    keys, values = _split('k', k), _split('v', v)
    if not keys or len(keys) != len(values):
        raise ValueError(
            f'{NAME}: k and v got {len(keys)} and {len(values)} modalities, expected '
            'the same number, at least 1. Pass keys and values of each modality.'
        )
    for i, (key, value) in enumerate(zip(keys, values, strict=True)):
        if key.shape != q.shape:
            raise ValueError(
                f'{NAME}: k[{i}] got the shape {tuple(key.shape)}, expected that of '
                f'q {tuple(q.shape)}. Resize the maps to that of q, and project them '
                'to the same heads.'
            )
        if value.shape[:-1] != q.shape[:-1] or value.shape[-1] != values[0].shape[-1]:
            raise ValueError(
                f'{NAME}: v[{i}] got the shape {tuple(value.shape)}, expected '
                f'{(*q.shape[:-1], values[0].shape[-1])} as q and v[0]. Resize or '
                'project it.'
            )
        if not key.dtype == value.dtype == q.dtype:
            raise TypeError(
                f'{NAME}: k[{i}] and v[{i}] got {key.dtype} and {value.dtype}, '
                f'expected {q.dtype} as q. Convert them with .to().'
            )
        if not key.device == value.device == q.device:
            raise ValueError(
                f"{NAME}: k[{i}] and v[{i}] got tensors on '{key.device}' and "
                f"'{value.device}', expected '{q.device}' as q. Move them with .to()."
            )
    _check_mask(q, len(keys), mask)


def _check_mask(q: Tensor, count: int, mask: Tensor | None) -> None:
    if mask is None:
        return
    if mask.dtype != torch.bool:
        raise TypeError(
            f'{NAME}: mask got {mask.dtype}, expected torch.bool. Compare it first: '
            'true is attended to.'
        )
    whole = (q.shape[0], count, q.shape[1])
    if tuple(mask.shape) not in (whole, whole[:2]):
        raise ValueError(
            f'{NAME}: mask got the shape {tuple(mask.shape)}, expected {whole} '
            f'or {whole[:2]}. Give it one entry per modality and place, or per '
            'modality.'
        )
    if mask.device != q.device:
        raise ValueError(
            f"{NAME}: mask got a tensor on '{mask.device}', expected '{q.device}' as "
            'q. Move it with .to().'
        )
