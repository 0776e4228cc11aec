"""Import the scripts of tools/benchmark, which import their neighbours."""

from __future__ import annotations

import sys
from types import ModuleType

from .tool_scripts import TOOLS, load_tool

if (folder := str(TOOLS / 'benchmark')) not in sys.path:  # as Python does for a script
    sys.path.insert(0, folder)


def load_script(name: str) -> ModuleType:
    """Import ``tools/benchmark/{name}.py`` under a name of its own."""
    return load_tool(f'benchmark/{name}')
