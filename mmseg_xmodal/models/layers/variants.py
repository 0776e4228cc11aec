"""Look sizes of networks up by name, fields or value."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

Size = TypeVar('Size')


def look_up(
    variant: str | Size | Mapping[str, Any],
    kind: type[Size],
    sizes: Mapping[str, Size],
    method: str,
) -> Size:
    """Find the size that a config means.

    Args:
        variant: Name, fields of ``kind``, or one itself.
        kind: Class of the sizes.
        sizes: Known sizes by name.
        method: Name of the method, for messages.

    Raises:
        ValueError: If the name is unknown, or the fields do not fit.
    """
    if isinstance(variant, kind):
        return variant
    if isinstance(variant, Mapping):
        return _from_fields(variant, kind, method)
    if not isinstance(variant, str) or variant not in sizes:
        raise ValueError(
            f'variant={variant!r} is not a {method} size, expected one of '
            f'{list(sizes)}. Change `variant` of the backbone.'
        )
    return sizes[variant]


def _from_fields(variant: Mapping[str, Any], kind: type[Size], method: str) -> Size:
    try:
        return kind(**variant)
    except TypeError as error:
        known: Any = kind
        fields = [f'{field.name}: {field.type}' for field in dataclasses.fields(known)]
        raise ValueError(
            f'variant={dict(variant)!r} is not a {method} size: {error}. Expected a '
            f'name, or these fields of {kind.__name__}: {", ".join(fields)}. Change '
            '`variant` of the backbone.'
        ) from error
