"""From the config of a multi-task model to names and heads."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence

from mmseg.registry import MODELS as MMSEG_MODELS
from torch import nn

from ..decode_heads.task_head import TaskHead


def choose_tasks(known: Sequence[str], tasks: Sequence[str] | None) -> tuple[str, ...]:
    """Names of the tasks that are trained and run, in the order of ``known``.

    Args:
        known: The segmentation task and those of ``task_heads``.
        tasks: The chosen ones; None = all.

    Raises:
        ValueError: If a name cannot be used, comes twice, or is unknown, or none is
            chosen.
    """
    taken = nn.ModuleDict()
    for name in known:
        usable = name and '.' not in name and not hasattr(taken, name)
        if not usable or known.count(name) > 1:
            raise ValueError(
                f'The model has the tasks {list(known)}; {name!r} cannot be one of '
                'them: a name stands once, has no dot, and is no attribute of '
                'torch.nn.ModuleDict. Rename it in task_heads, or change seg_task.'
            )
    if tasks is None:
        return tuple(known)
    if isinstance(tasks, str) or not tasks or not set(tasks) <= set(known):
        raise ValueError(
            f'tasks={tasks!r}, expected a list of at least one of {list(known)} '
            '(decode_head is the task that seg_task names), or None for all. Change '
            'tasks in the model.'
        )
    return tuple(name for name in known if name in tasks)


def build_task_head(name: str, cfg: Mapping) -> TaskHead:
    """Build a head of ``task_heads``; one of mmseg or mmdet gets its adapter.

    Raises:
        ValueError: If the config has no ``type``.
    """
    kind = cfg.get('type') if isinstance(cfg, Mapping) else None
    if kind is None:
        raise ValueError(
            f'task_heads[{name!r}] is {cfg!r}, expected the config of a head with a '
            "type, such as dict(type='mmseg_xmodal.DepthHead', ...)."
        )
    if _source(kind).startswith('mmdet.'):
        cfg = dict(type='mmseg_xmodal.MMDetHead', head=cfg)
    else:
        found = kind if inspect.isclass(kind) else MMSEG_MODELS.get(kind)
        # An unknown name goes on: the registry's own error says where it looked.
        if found is not None and not issubclass(found, TaskHead):
            cfg = dict(type='mmseg_xmodal.SegTaskHead', head=cfg, target=f'gt_{name}')
    return MMSEG_MODELS.build(cfg)


def _source(kind: str | type) -> str:
    return kind if isinstance(kind, str) else f'{kind.__module__}.'
