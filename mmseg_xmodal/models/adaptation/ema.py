"""The teacher as a running mean of the student.

Mean Teacher, Tarvainen and Valpola, NeurIPS 2017, https://arxiv.org/abs/1703.01780,
with the warm-up of DACS (https://github.com/vikolss/DACS, MIT). Clean room, nothing
copied.
"""

from __future__ import annotations

import torch
from mmengine.dist import broadcast, get_world_size
from torch import Tensor, nn

BUFFER_POLICIES = ('keep', 'copy', 'ema')


def ema_alpha(update: int, momentum: float) -> float:
    """Share of the teacher that is kept at an update: min(1 - 1/(t+1), momentum).

    Args:
        update: t, counted from 0; the first copies the student.
        momentum: In [0, 1).
    """
    return min(1 - 1 / (update + 1), momentum)


@torch.no_grad()
def ema_update(
    teacher: nn.Module, student: nn.Module, alpha: float, buffers: str = 'keep'
) -> None:
    """teacher = alpha * teacher + (1 - alpha) * student, in place.

    Args:
        teacher: Changed.
        student: Of the same structure.
        alpha: In [0, 1]; 0 copies.
        buffers: ``'keep'``: the teacher's stay; ``'copy'``: the student's; ``'ema'``:
            numbers in floating point are averaged, others copied.
    """
    old: list[Tensor] = [*teacher.parameters()]
    new: list[Tensor] = [*student.parameters()]
    if buffers != 'keep':
        pairs = zip(teacher.buffers(), student.buffers(), strict=True)
        for mine, other in pairs:
            if buffers == 'ema' and mine.is_floating_point():
                old.append(mine)
                new.append(other)
            else:
                mine.copy_(other)
    # All tensors at once: on a GPU one launch instead of one for each.
    if alpha == 0:
        torch._foreach_copy_(old, new)
    else:
        torch._foreach_mul_(old, alpha)
        torch._foreach_add_(old, new, alpha=1 - alpha)


@torch.no_grad()
def share_buffers(module: nn.Module) -> None:
    """Give all processes the buffers in floating point of the first one, in place.

    Not their mean: a checkpoint holds what the first process has of the student too,
    so only what follows from that alone is the same after a resume.

    Args:
        module: Changed, in all processes but the first.
    """
    owned = [b for b in module.buffers() if b.is_floating_point() and b.numel()]
    if get_world_size() == 1 or not owned:
        return
    # In one piece: one exchange, not one for each norm.
    flat = torch.cat([b.flatten() for b in owned])
    broadcast(flat)
    parts = flat.split([b.numel() for b in owned])
    for buffer, part in zip(owned, parts, strict=True):
        buffer.copy_(part.view_as(buffer))
