from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

VIZDOOM = Path(__file__).resolve().parents[2] / 'tools/dataset_converters/vizdoom.py'


@pytest.fixture(scope='session')
def tool() -> ModuleType:
    """The ViZDoom converter as a module; its parts can be imported afterwards."""
    spec = importlib.util.spec_from_file_location('vizdoom_converter', VIZDOOM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
