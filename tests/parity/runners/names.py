"""Names in fixtures, however they are spelled."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..fixture import Fixture, NoRunner


def plain_name(text: object) -> str:
    """Letters and digits in lower case: ``'Swin-T'`` and ``'swin_t'`` are one name."""
    return re.sub('[^a-z0-9]', '', str(text).lower())


def plain_repository(text: str) -> str:
    """``'owner/name'`` in lower case of a repository on GitHub, URL or not."""
    text = text.strip().lower()
    start = r'^(?:\w+://)?(?:git@)?(?:www\.)?github\.com[:/]'
    match = re.match(r'([\w.-]+)/([\w.-]+)(?=$|[/@#?\s])(.*)', re.sub(start, '', text))
    if match is None:
        return text
    # A path after the name only makes sense in a URL.
    if match[3].startswith('/') and match[3] != '/' and 'github.com' not in text:
        return text
    return f'{match[1]}/{match[2].removesuffix(".git")}'


def stated_variant(fixture: Fixture) -> str:
    """What the fixture calls its network, the constructor's name first."""
    constructor = fixture.meta.get('constructor') or {}
    return str(constructor.get('backbone') or fixture.variant)


def find_mit(name: str, family: str) -> str | None:
    """``'mit_b2'`` of ``'CMX-B2'``, ``'MiT-B2'`` or ``'CMX (MiT-B2)'``; None if none.

    Args:
        name: Of the fixture.
        family: That may stand before the size, such as ``'cmx'``.
    """
    kind = r'mit|mixt|mixtransformer|segformer'
    match = re.fullmatch(rf'(?:{family})?(?:{kind})?b([0-5])', plain_name(name))
    return f'mit_b{match[1]}' if match else None


def require_mit(fixture: Fixture, family: str) -> str:
    """The size that the fixture names.

    The official builder of CMX builds B2 where it does not know the name: there the
    weights tell the size, and the name only that the network is none of another family.
    The code of the others builds what the name says.

    Args:
        fixture: Of the family.
        family: Such as ``'cmx'``.

    Raises:
        NoRunner: If it names none.
    """
    stated = stated_variant(fixture)
    variant = find_mit(stated, family) or find_mit(fixture.variant, family)
    if variant is None:
        raise NoRunner(f'{fixture.name}: no runner for {family} variant {stated!r}')
    return variant


def require_decoder(fixture: Fixture, start: str, family: str) -> None:
    """The decoder is the one that the runner builds, with or without a comment.

    Raises:
        NoRunner: If it is another.
    """
    decoder = (fixture.meta.get('constructor') or {}).get('decoder') or start
    if not plain_name(decoder).startswith(plain_name(start)):
        raise NoRunner(f'{fixture.name}: no runner for {family} decoder {decoder!r}')


def check_head(fixture: Fixture, head: Mapping[str, Any], width: str) -> None:
    """What the fixture states of the head is what the weights have.

    Args:
        fixture: With the settings of the official constructor.
        head: Our config.
        width: Official name of the head's channels.
    """
    constructor = fixture.meta.get('constructor') or {}
    for key, ours in (('num_classes', head['num_classes']), (width, head['channels'])):
        stated = constructor.get(key)
        assert stated in (None, ours), (fixture.name, key, stated, ours)
