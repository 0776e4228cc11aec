"""Marked regions of documents, filled from results.

A region stands between ``<!-- report:WHAT -->`` and ``<!-- /report -->``. ``WHAT`` is

* names of results, ``NAME`` or ``NAME_A NAME_B`` or a pattern ``speed_*`` (files
  ``benchmarks/NAME.json`` of one kind): the region becomes their table;
* ``NAME#key.key:format``: the region becomes that one value, within a sentence. A list
  index counts as a key; keys and format are parted by the last colon.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from .common import read_json
from .render import render, source_line

_REGION = re.compile(r'(<!-- report:([^>]*?) -->)(.*?)(<!-- /report -->)', re.DOTALL)
_ANY_MARK = re.compile(r'<!-- */?report\b[^>]*>')


def fill(text: str, results: Path, where: str) -> str:
    """Return the text with every region rendered anew.

    Args:
        text: Content of a document.
        results: Folder of the JSON files.
        where: Name of the document, for errors.

    Raises:
        FileNotFoundError: If a region names a result that is absent.
        ValueError: If marks do not pair up, or a region asks for what is not there.
    """
    marks = len(_ANY_MARK.findall(text))
    pairs = len(_REGION.findall(text))
    nested = any(_ANY_MARK.search(m.group(3)) for m in _REGION.finditer(text))
    if marks != 2 * pairs or nested:
        raise ValueError(
            f'{where}: {marks} report marks make {pairs} regions. Write every region '
            'as <!-- report:NAME --> ... <!-- /report -->, none inside another.'
        )

    def region(match: re.Match) -> str:
        opening, what, closing = match.group(1), match.group(2), match.group(4)
        try:
            return opening + content(what.strip(), results) + closing
        except (ValueError, FileNotFoundError) as error:
            raise type(error)(f'{where}, region report:{what}: {error}') from error

    return _REGION.sub(region, text)


def content(what: str, results: Path) -> str:
    """Render one region."""
    if '#' in what:
        return _value(what, results)
    found = [read_json(path) for path in _files(what, results)]
    return f'\n\n{render(found)}\n\n{source_line(found)}\n'


def _files(what: str, results: Path) -> list[Path]:
    paths: list[Path] = []
    for name in what.split():
        matches = sorted(results.glob(f'{name}.json'))
        # A pattern may grow; a plain name that is absent is reported by read_json.
        paths += matches or [results / f'{name}.json']
    if not paths:
        raise ValueError('names no result. Write <!-- report:NAME -->.')
    return paths


def _value(what: str, results: Path) -> str:
    name, _, rest = what.partition('#')
    keys, separator, form = rest.rpartition(':')
    if not separator:
        keys, form = form, ''
    node: Any = read_json(results / f'{name}.json')
    for key in keys.split('.'):
        try:
            node = node[int(key)] if isinstance(node, list) else node[key]
        except (KeyError, IndexError, ValueError, TypeError) as error:
            there = sorted(node) if isinstance(node, dict) else type(node).__name__
            raise ValueError(
                f'no key {key!r} of {keys!r} in {name}.json; there is {there}.'
            ) from error
    return format(node, form)
