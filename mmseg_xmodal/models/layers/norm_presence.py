"""Parts of a model that run on some ranks only, and norms that wait for all ranks."""

from __future__ import annotations

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
    """Refuse a batch in which synchronised norms would wait for each other for ever.

    Every rank must call it.

    Args:
        modules: What each part has for itself, by name.
        present: Names of the parts that run on this rank's batch.
        device: Where ranks exchange numbers.
        what: Whose names these are, for the message: ``'Samples of the domains'``.

    Raises:
        ValueError: On all ranks, if a part whose modules have ``SyncBatchNorm`` runs on
            some ranks only.
    """
    if get_world_size() == 1:
        return
    synced = [name for name, own in modules.items() if any(map(_is_synced, own))]
    if not synced:
        return
    here = torch.tensor([float(name in present) for name in synced], device=device)
    both = torch.cat([here, -here])
    all_reduce(both, op='max')
    most, least = both.chunk(2)
    torn = [n for n, m, k in zip(synced, most, -least, strict=True) if m != k]
    if torn:
        raise ValueError(
            f'{what} {torn} are in the batches of some processes only, and the modules '
            'of these have SyncBatchNorm, which waits for all. Use mmseg_xmodal.'
            'MultiSourceSampler, which composes all batches alike, or norm_cfg='
            "dict(type='BN') there."
        )


def _is_synced(module: nn.Module) -> bool:
    # In evaluation mode it waits for nobody.
    return any(isinstance(m, nn.SyncBatchNorm) and m.training for m in module.modules())
