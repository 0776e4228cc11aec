"""The operations need torch alone; so do their tests.

On a machine without mmengine: ``pytest --confcutdir tests/test_ops tests/test_ops``.
"""

from __future__ import annotations

import tests.benchmark_scripts  # noqa: F401  (puts xbench on the path)

from xbench.ops_alone import import_ops  # isort: skip

import_ops()
