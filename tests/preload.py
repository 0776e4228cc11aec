"""What the server of :mod:`tests.python_process` imports: the stock stack, not ours."""

# ruff: noqa: F401
import mmseg.apis
import mmseg.datasets
import mmseg.engine
import mmseg.evaluation
import mmseg.models
import mmseg.visualization

from tests import plain_configs
