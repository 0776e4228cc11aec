"""Import the scripts of tools/benchmark, which are no package."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).resolve().parents[1] / 'tools' / 'benchmark'
if str(FOLDER) not in sys.path:  # as Python itself does for a script
    sys.path.insert(0, str(FOLDER))


def load_script(name: str) -> ModuleType:
    """Import ``tools/benchmark/{name}.py`` under a name of its own."""
    path = FOLDER / f'{name}.py'
    spec = importlib.util.spec_from_file_location(f'benchmark_{name}', path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
