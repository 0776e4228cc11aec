"""Inference on a CPU, a slice of the channels at a time.

A wide map that only element-wise or depth-wise steps touch before a linear map sums its
channels need not exist as a whole: each slice of channels goes all the way, and the
results add up. The slice stays in the cache and in memory that is already mapped, where
the whole map costs a page fault every 4 KiB. The sum is the same up to its order.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .capture import is_captured

# About 5 MB of float32: found best between 2 and 20 MB on an x86 server core, with
# little difference from 3 to 8.
_ELEMENTS = 5 << 18
_STEP = 32  # narrower matrix products are slower than what slicing saves


def inference_slices(like: Tensor, channels: int, places: int) -> list[slice]:
    """Divide channels so that a slice of the wide map is small.

    Args:
        like: Some input of the computation.
        channels: Channels of the wide map.
        places: Its batch times height times width.

    Returns:
        One slice of everything where gradients are recorded, off the CPU, in half
        precision (sums of slices would round more often) and while a graph is
        captured; else slices that cover the channels.
    """
    if torch.is_grad_enabled() or not _can_slice(like):
        return [slice(0, channels)]
    return _slices(channels, places)


def training_slices(like: Tensor, channels: int, places: int) -> list[slice]:
    """Divide places so that a slice of the wide map is small, while training.

    Args:
        like: Some input of the computation.
        channels: Channels of the wide map.
        places: Its batch times height times width.

    Returns:
        One slice of everything where no gradients are recorded, and in the cases of
        :func:`inference_slices`; else slices that cover the places.
    """
    if not torch.is_grad_enabled() or not _can_slice(like):
        return [slice(0, places)]
    return _slices(places, channels)


def _can_slice(like: Tensor) -> bool:
    return not (
        like.device.type != 'cpu'
        or like.dtype not in (torch.float32, torch.float64)
        or torch.is_autocast_enabled('cpu')
        or is_captured()
    )


def _slices(length: int, other: int) -> list[slice]:
    count = max(round(length * other / _ELEMENTS), 1)
    width = max(round(length / count / _STEP) * _STEP, _STEP)
    return [slice(i, min(i + width, length)) for i in range(0, length, width)]


def is_plain(*modules: nn.Module) -> bool:
    """Whether these are torch's own layers, without hooks.

    Only then may their weights be used without calling them: an adapter (LoRA) or a
    quantised layer has weights too, but they are not all of it.
    """
    return all(
        type(m) in (nn.Linear, nn.Conv2d)
        and not m._forward_hooks
        and not m._forward_pre_hooks
        for m in modules
    )
