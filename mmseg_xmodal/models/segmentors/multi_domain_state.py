"""Checkpoints of a model with several domains, and plain ones of an EncoderDecoder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from mmengine.logging import print_log

_HEADS = {'decode_head.': 'decode_heads.', 'auxiliary_head.': 'auxiliary_heads.'}
_NORM = '.domain_norms.'


def spread_plain_heads(
    state: dict[str, Any], prefix: str, own: Callable[[], Mapping[str, Any]]
) -> None:
    """Turn the heads of a plain segmentor's state into those of all domains, in place.

    A tensor of a head that the plain head does not have in its shape (the classifier,
    where classes differ) stays as it is, and a warning names it. A state that has heads
    of domains is left alone.

    Args:
        state: State dict that is being loaded.
        prefix: Of the model's keys in it.
        own: Gives the model's own state, without the prefix.
    """
    starts = {prefix + one: prefix + many for one, many in _HEADS.items()}
    if any(key.startswith(tuple(starts.values())) for key in state):
        return
    if not any(key.startswith(tuple(starts)) for key in state):
        return
    mine = {prefix + key: value for key, value in own().items()}
    kept = []
    for one, many in starts.items():
        given = {k[len(one) :]: k for k in state if k.startswith(one)}
        used = set()
        for key in [k for k in mine if k.startswith(many)]:
            rest = key[len(many) :].partition('.')[2]
            source = given.get(rest)
            if source is not None:
                used.add(source)
            if source is not None and state[source].shape == mine[key].shape:
                state[key] = state[source]
            else:
                state[key] = mine[key]
                kept.append(key[len(prefix) :])
        # What no head knows stays, so that it is reported.
        for source in used:
            del state[source]
    if kept:
        print_log(
            f'The checkpoint is of one head; {len(kept)} tensors of the domains have '
            f'no like in it and keep their values: {kept}.',
            logger='current',
            level=logging.WARNING,
        )


def one_domain_state_dict(state: Mapping[str, Any], domain: str) -> dict[str, Any]:
    """State of one domain alone, for the config of a plain ``EncoderDecoder``.

    Args:
        state: State dict of a ``MultiDomainEncoderDecoder``, or a checkpoint with it
            under ``state_dict``.
        domain: Whose head, and whose norms.

    Raises:
        ValueError: If the state has no such domain.
    """
    inner = state.get('state_dict', state)
    heads = _HEADS['decode_head.']
    found = {k[len(heads) :].partition('.')[0] for k in inner if k.startswith(heads)}
    if domain not in found:
        raise ValueError(
            f'domain={domain!r}, expected one of {sorted(found)}, the heads in the '
            'state of a MultiDomainEncoderDecoder.'
        )
    plain = {}
    for key, value in inner.items():
        name: str | None = key
        for one, many in _HEADS.items():
            if key.startswith(many):
                whose, _, rest = key[len(many) :].partition('.')
                name = one + rest if whose == domain else None
        if _NORM in key:
            before, _, after = key.partition(_NORM)
            whose, _, rest = after.partition('.')
            name = f'{before}.{rest}' if whose == domain else None
        if name is not None:
            plain[name] = value
    return plain
