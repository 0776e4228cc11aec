"""Import ``mmseg_xmodal.ops`` where torch is installed and mmseg is not."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType

from .common import ROOT

STACK = ('mmengine', 'mmcv', 'mmseg')


def import_ops() -> ModuleType:
    """Import the operations, with the whole package if its stack can be imported.

    Without a stack, or with one whose parts do not fit (mmseg asserts the version of
    mmcv), a bare parent stands in for ``mmseg_xmodal``: its operations need none of it,
    while its import checks for the stack.
    """
    if 'mmseg_xmodal' not in sys.modules and not _stack():
        parent = ModuleType('mmseg_xmodal')
        parent.__path__ = [str(ROOT / 'mmseg_xmodal')]
        sys.modules['mmseg_xmodal'] = parent
    return importlib.import_module('mmseg_xmodal.ops')


def _stack() -> bool:
    if any(importlib.util.find_spec(name) is None for name in STACK):
        return False
    try:
        importlib.import_module('mmseg')
    except (ImportError, AssertionError) as error:
        print(f'without the stack: mmseg cannot be imported ({error})', file=sys.stderr)
        return False
    return True
