"""Import ``mmseg_xmodal.ops`` where torch is installed and mmseg is not."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType

from .common import ROOT

STACK = ('mmengine', 'mmcv', 'mmseg')


def import_ops() -> ModuleType:
    """Import the operations, with the whole package if its stack is installed.

    Without a stack a bare parent stands in for ``mmseg_xmodal``: its operations need
    none of it, while its import checks for the stack.
    """
    absent = any(importlib.util.find_spec(n) is None for n in STACK)
    if absent and 'mmseg_xmodal' not in sys.modules:
        parent = ModuleType('mmseg_xmodal')
        parent.__path__ = [str(ROOT / 'mmseg_xmodal')]
        sys.modules['mmseg_xmodal'] = parent
    return importlib.import_module('mmseg_xmodal.ops')
