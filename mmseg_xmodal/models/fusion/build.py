"""Build one fusion module per stage from a config."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.model import ModuleList

from mmseg_xmodal.registry import MODELS


def _num_streams(cfg: Mapping[str, Any], num_streams: int) -> dict[str, int]:
    """Fill ``num_streams`` in where the module has such an argument."""
    kind = cfg.get('type')
    if isinstance(kind, str):
        with MODELS.switch_scope_and_registry(None) as registry:
            kind = registry.get(kind)
    if inspect.isclass(kind) and 'num_streams' in inspect.signature(kind).parameters:
        return dict(num_streams=num_streams)
    return {}


def build_fusions(
    fusion: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    channels: Sequence[int],
    num_streams: int,
) -> ModuleList:
    """Build the fusion modules of all stages.

    Args:
        fusion: One config for all stages, or a list with one per stage. ``channels``
            is filled in, ``num_streams`` too where the module takes it.
        channels: Channels of each stage.
        num_streams: Number of streams.

    Returns:
        One module per stage.

    Raises:
        ValueError: If the list has another length than ``channels``.
    """
    if isinstance(fusion, Mapping):
        cfgs = [fusion] * len(channels)
    else:
        cfgs = list(fusion)
    if len(cfgs) != len(channels):
        raise ValueError(
            f'fusion is a list of {len(cfgs)} configs, expected {len(channels)} (one '
            'per stage) or one dict for all. Change `fusion` of the backbone.'
        )
    return ModuleList(
        MODELS.build(
            dict(cfg), default_args=dict(channels=c, **_num_streams(cfg, num_streams))
        )
        for cfg, c in zip(cfgs, channels, strict=True)
    )
