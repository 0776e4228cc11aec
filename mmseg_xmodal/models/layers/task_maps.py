"""Maps of several tasks: one module per task, and one size for all."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mmengine.model import ModuleDict
from torch import Tensor


def resize_to(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a map bilinearly, where its size differs.

    Shape:
        - x: (B, C, h, w)
        - output: (B, C, *size)
    """
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return F.interpolate(x, size, mode='bilinear', align_corners=False)


def by_task(modules: ModuleDict, x: Tensor) -> Tensor:
    """Apply to the maps of each task the module of this task.

    Shape:
        - x: (T * B, C, h, w), all samples of the first task first
        - output: (T * B, C_out, h_out, w_out)
    """
    parts = zip(modules.values(), x.chunk(len(modules)), strict=True)
    return torch.cat([module(part) for module, part in parts])
