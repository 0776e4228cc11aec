"""Import the scripts of ``tools``, which is no package."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

TOOLS = Path(__file__).resolve().parents[1] / 'tools'


def load_tool(name: str) -> ModuleType:
    """Import ``tools/{name}.py`` anew, under a name of its own."""
    alias = f'tool_{name.replace("/", "_")}'
    spec = importlib.util.spec_from_file_location(alias, TOOLS / f'{name}.py')
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
