from __future__ import annotations

from types import ModuleType

import pytest

from tests.tool_scripts import load_tool


@pytest.fixture(scope='session')
def tool() -> ModuleType:
    """The ViZDoom converter as a module; its parts can be imported afterwards."""
    return load_tool('dataset_converters/vizdoom')
