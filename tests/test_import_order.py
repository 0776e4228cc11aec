"""Packages import in the one direction that CONTRIBUTING.md names."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import mmseg_xmodal

PACKAGE = Path(mmseg_xmodal.__file__).parent
# Packages of one rank do not import each other.
RANKS = [
    {'structures', 'ops'},
    {'datasets'},
    {'models'},
    {'evaluation', 'visualization'},
    {'engine'},
    {'apis'},
]
PACKAGES = sorted(path.parent.name for path in PACKAGE.glob('*/__init__.py'))


def imported(path: Path) -> set[str]:
    """Our packages that a file imports, at its top or within a function."""
    here = ['mmseg_xmodal', *path.relative_to(PACKAGE).parent.parts]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            start = '.'.join([*base, *([node.module] if node.module else [])])
            names = [f'{start}.{alias.name}' for alias in node.names]
        else:
            continue
        for name in names:
            first, _, rest = name.partition('.')
            if first == 'mmseg_xmodal':
                found.add(rest.partition('.')[0])
    return found & set(PACKAGES)


@pytest.mark.parametrize('package', PACKAGES)
def test_a_package_imports_lower_ones_only(package: str):
    (rank,) = [i for i, names in enumerate(RANKS) if package in names]
    allowed = set().union({package}, *RANKS[:rank])
    files = sorted((PACKAGE / package).rglob('*.py'))
    assert files
    for path in files:
        assert imported(path) <= allowed, path


def test_contributing_names_the_same_order():
    text = (PACKAGE.parent / 'CONTRIBUTING.md').read_text()
    chain = ' '.join(text.split()).split('Imports do too: ')[1].split(', and in ')[0]
    assert [set(re.findall(r'`(\w+)`', part)) for part in chain.split('<-')] == RANKS
