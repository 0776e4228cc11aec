"""Checkpoints of domain adaptation, and plain ones of a segmentor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

NETWORKS = ('student', 'teacher')


def plain_state_dict(
    state: Mapping[str, Any], network: str = 'student'
) -> dict[str, Any]:
    """State of the trained network alone, for the plain segmentor's config.

    Args:
        state: State dict of a ``DomainAdaptiveSegmentor``, or a checkpoint with it
            under ``state_dict``.
        network: ``'student'`` or ``'teacher'``.

    Raises:
        ValueError: If ``network`` is unknown or the state holds no such network.
    """
    inner = state.get('state_dict', state)
    prefix = f'{network}.'
    if network not in NETWORKS or not any(k.startswith(prefix) for k in inner):
        raise ValueError(
            f'network={network!r} and a state with the parts '
            f'{sorted({k.split(".")[0] for k in inner})}, expected one of '
            f'{list(NETWORKS)} in the checkpoint of a DomainAdaptiveSegmentor. Give a '
            'checkpoint of the adaptation.'
        )
    return {k[len(prefix) :]: v for k, v in inner.items() if k.startswith(prefix)}


def spread_plain_state(
    state: dict[str, Any], prefix: str, own: Callable[[], Mapping[str, Any]]
) -> None:
    """Turn a plain segmentor's state into that of the wrapper, in place.

    The weights go into student and teacher. What neither has (the anchor, the terms)
    stays as it is. A state that has a student or a teacher is left alone.

    Args:
        state: State dict that is being loaded.
        prefix: Of the wrapper's keys in it.
        own: Gives the wrapper's own state, without the prefix.
    """
    starts = tuple(f'{prefix}{network}.' for network in NETWORKS)
    mine = [key for key in state if key.startswith(prefix)]
    if not mine or any(key.startswith(starts) for key in mine):
        return
    values = {key[len(prefix) :]: state.pop(key) for key in mine}
    for start in starts:
        state.update({start + key: value for key, value in values.items()})
    for key, value in own().items():
        if not key.startswith(tuple(f'{network}.' for network in NETWORKS)):
            state[prefix + key] = value
