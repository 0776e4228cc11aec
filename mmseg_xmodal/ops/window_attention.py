"""Attention between maps inside windows, with masked keys.

Each window of the query map attends to the same window of one or several key maps (one
per modality). The softmax runs over all of them together.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .exporting import is_exporting

# PyTorch before 2.8 launches its kernels with one block per window on this axis.
_MOST_WINDOWS = 65535


def windowed_cross_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: int | tuple[int, int],
    key_mask: Tensor | None = None,
    *,
    scale: float | None = None,
) -> Tensor:
    """Attend inside windows that tile the map from the top left.

    Windows at the right and bottom border may be incomplete; what is missing is no key.
    Shifted windows: roll the maps before and the result after.

    Differentiable once: the fused kernels of ``scaled_dot_product_attention``, the one
    for CPUs too, have no second derivative. Its plain form has: call this under
    ``torch.nn.attention.sdpa_kernel(SDPBackend.MATH)`` for gradients of gradients.

    Args:
        q: Queries.
        k: Keys of one map, or of M maps on an axis of their own.
        v: Values, as the keys; their channels may differ.
        window: Height and width of a window, in places.
        key_mask: Boolean, true where a key may be attended to. A query whose every key
            is masked gives zero.
        scale: Factor of the scores; 1 / sqrt(D) if not given.

    Shape:
        - q: (B, H, W, heads, D)
        - k: (B, H, W, heads, D) or (B, M, H, W, heads, D)
        - v: as k, with Dv in place of D
        - key_mask: (B, H, W) or (B, M, H, W), as k
        - output: (B, H, W, heads, Dv)

    Raises:
        TypeError: For a mask that is not boolean, or a dtype that does not fit.
        ValueError: For shapes that do not add up, or tensors on several devices.
    """
    height, width = _sides(window)
    _check(q, k, v, key_mask)
    if k.dim() == 5:
        k, v = k.unsqueeze(1), v.unsqueeze(1)
        key_mask = None if key_mask is None else key_mask.unsqueeze(1)
    h, w = q.shape[1:3]
    bottom, right = -h % height, -w % width
    if bottom or right:
        if key_mask is None:
            key_mask = torch.ones(k.shape[:4], dtype=torch.bool, device=q.device)
        pad = (0, 0, 0, 0, 0, right, 0, bottom)
        q, k, v = F.pad(q, pad), F.pad(k, pad), F.pad(v, pad)
        key_mask = F.pad(key_mask, (0, right, 0, bottom))
    windows = (height, width)
    out = _attend(
        _partition(q.unsqueeze(1), windows),
        _partition(k, windows),
        _partition(v, windows),
        None if key_mask is None else _partition_mask(key_mask, windows),
        scale,
    )
    return _join(out, q.shape, windows)[:, :h, :w]


def _join(out: Tensor, shape: torch.Size, window: tuple[int, int]) -> Tensor:
    """(B * windows, heads, places, Dv) -> (B, H, W, heads, Dv)."""
    b, h, w, heads, _ = shape
    rows, columns = h // window[0], w // window[1]
    out = out.view(b, rows, columns, heads, *window, out.shape[-1])
    return out.permute(0, 1, 4, 2, 5, 3, 6).reshape(b, h, w, heads, out.shape[-1])


def _partition(x: Tensor, window: tuple[int, int]) -> Tensor:
    """(B, M, H, W, heads, D) -> (B * windows, heads, M * places, D)."""
    b, m, h, w, heads, channels = x.shape
    x = x.reshape(
        b, m, h // window[0], window[0], w // window[1], window[1], heads, channels
    )
    x = x.permute(0, 2, 4, 6, 1, 3, 5, 7)
    return x.reshape(-1, heads, m * window[0] * window[1], channels)


def _partition_mask(mask: Tensor, window: tuple[int, int]) -> Tensor:
    """(B, M, H, W) -> (B * windows, 1, 1, M * places)."""
    return _partition(mask[..., None, None], window).transpose(-1, -2)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None
) -> Tensor:
    """Attend in every window, a launchable number of them at a time."""
    count = q.shape[0]  # not len(q), which an export takes for a constant
    if is_exporting() or count <= _MOST_WINDOWS:
        return _attend_at_once(q, k, v, mask, scale)
    parts = [slice(i, i + _MOST_WINDOWS) for i in range(0, count, _MOST_WINDOWS)]
    masks = [None if mask is None else mask[part] for part in parts]
    return torch.cat(
        [
            _attend_at_once(q[part], k[part], v[part], allowed, scale)
            for part, allowed in zip(parts, masks, strict=True)
        ]
    )


def _attend_at_once(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None
) -> Tensor:
    if mask is None:
        return F.scaled_dot_product_attention(q, k, v, scale=scale)
    # A row without a key would be 0 / 0: it attends to all, and is zeroed afterwards.
    # What is masked may hold anything, NaN too, and 0 * NaN is NaN: it is replaced.
    some = mask.any(dim=-1, keepdim=True)
    gone = ~mask.transpose(-1, -2)
    k, v = k.masked_fill(gone, 0), v.masked_fill(gone, 0)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask | ~some, scale=scale)
    return out.masked_fill(~some, 0)


def _sides(window: int | tuple[int, int]) -> tuple[int, int]:
    sides = (window, window) if isinstance(window, int) else window
    whole = isinstance(sides, tuple | list) and all(isinstance(s, int) for s in sides)
    if not whole or len(sides) != 2 or min(sides) < 1:
        raise ValueError(
            f'windowed_cross_attention: window got {window!r}, expected one or two '
            'whole numbers, at least (1, 1). Pass its height and width in places.'
        )
    return sides[0], sides[1]


def _check(q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None) -> None:
    name = 'windowed_cross_attention'
    if q.dim() != 5:
        raise ValueError(
            f'{name}: q got the shape {tuple(q.shape)}, expected 5 axes '
            '(B, H, W, heads, D). Move the channels last and split them into heads.'
        )
    b, h, w, heads, channels = q.shape
    if not heads * channels:
        raise ValueError(
            f'{name}: q got the shape {tuple(q.shape)}, expected at least one head and '
            'channel. Project the map to some.'
        )
    maps = (k.shape[1],) if k.dim() == 6 else ()
    if tuple(k.shape) != (b, *maps, h, w, heads, channels):
        raise ValueError(
            f'{name}: k got the shape {tuple(k.shape)}, expected '
            f'{(b, h, w, heads, channels)} as q, or one more axis M after the first. '
            'Resize the map to that of q, and project it to the same heads.'
        )
    if 0 in maps:
        raise ValueError(
            f'{name}: k got the shape {tuple(k.shape)}, expected at least one map on '
            'the axis M. Pass one, masked by key_mask where there is none.'
        )
    if tuple(v.shape[:-1]) != tuple(k.shape[:-1]):
        raise ValueError(
            f'{name}: v got the shape {tuple(v.shape)}, expected that of k '
            f'{tuple(k.shape)} up to the channels. Take both from the same maps.'
        )
    if not q.is_floating_point() or not q.dtype == k.dtype == v.dtype:
        raise TypeError(
            f'{name}: q, k and v got {q.dtype}, {k.dtype} and {v.dtype}, expected one '
            'floating dtype. Convert them with .to().'
        )
    for other, tensor in (('k', k), ('v', v), ('key_mask', key_mask)):
        if tensor is not None and tensor.device != q.device:
            raise ValueError(
                f"{name}: {other} got a tensor on '{tensor.device}', expected "
                f"'{q.device}' as q. Move it with .to()."
            )
    if key_mask is None:
        return
    if key_mask.dtype != torch.bool:
        raise TypeError(
            f'{name}: key_mask got {key_mask.dtype}, expected torch.bool. Compare it '
            'first: true is a key.'
        )
    if tuple(key_mask.shape) != (b, *maps, h, w):
        raise ValueError(
            f'{name}: key_mask got the shape {tuple(key_mask.shape)}, expected '
            f'{(b, *maps, h, w)} as k. Give it one entry per key.'
        )
