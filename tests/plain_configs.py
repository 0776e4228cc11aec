"""Configs are written without being formatted.

A run writes its config as Python six times or more, and yapf takes up to two seconds
each. mmengine's own ``format_python_code=False`` is lost in ``Config.fromfile``. The
runs that are started anew (``encoders=True`` of ``run_tool``) still format theirs.
"""

from typing import Any

import mmengine.config.config
from yapf.yapflib import yapf_api


def _unformatted(text: str, **_: Any) -> tuple[str, bool]:
    return text, True


yapf_api.FormatCode = _unformatted
# One of the stacks has taken the name at import.
mmengine.config.config.FormatCode = _unformatted
