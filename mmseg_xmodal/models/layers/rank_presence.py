"""Parts of a model that run on some ranks only, and modules that wait for all ranks.

Such are synchronised norms, and heads whose losses count positives over all ranks with
a function ``reduce_mean``: most dense heads of mmdet, Mask2Former, mmseg's EMAHead.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence

import torch
from mmengine.dist import all_reduce, get_world_size
from torch import nn


def check_presence(
    modules: Mapping[str, Sequence[nn.Module]],
    present: Collection[str],
    device: torch.device,
    what: str,
) -> None:
    """Refuse a batch in which modules would wait for other ranks for ever.

    Every rank must call it.

    Args:
        modules: What each part has for itself, by name.
        present: Names of the parts that run on this rank's batch.
        device: Where ranks exchange numbers.
        what: Whose names these are, for the message: ``'Samples of the domains'``.

    Raises:
        ValueError: On all ranks, if a part with a module that waits for all of them
            runs on some ranks only.
    """
    if get_world_size() == 1:
        return
    waiting = {
        name: sorted(set().union(*map(_waiting, own))) for name, own in modules.items()
    }
    synced = [name for name, found in waiting.items() if found]
    if not synced:
        return
    here = torch.tensor([float(name in present) for name in synced], device=device)
    both = torch.cat([here, -here])
    all_reduce(both, op='max')
    most, least = both.chunk(2)
    torn = [n for n, m, k in zip(synced, most, -least, strict=True) if m != k]
    if torn:
        raise ValueError(
            f'{what} {torn} are in the batches of some processes only, and there '
            f'{", ".join(waiting[torn[0]])} waits for all. Use mmseg_xmodal.'
            'MultiSourceSampler, which composes all batches alike, or, instead of '
            "synchronised norms, norm_cfg=dict(type='BN') there."
        )


def _waiting(module: nn.Module) -> set[str]:
    """Classes of the modules that wait for all ranks in training."""
    # In evaluation mode they wait for nobody.
    training = {type(m) for m in module.modules() if m.training}
    return {cls.__name__ for cls in training if _waits(cls)}


def _waits(cls: type) -> bool:
    sources = (sys.modules.get(base.__module__) for base in cls.__mro__)
    averages = any(hasattr(source, 'reduce_mean') for source in sources)
    return averages or issubclass(cls, nn.SyncBatchNorm)
