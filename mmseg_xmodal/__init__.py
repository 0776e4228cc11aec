"""Cross-modal segmentation for MMSegmentation 1.x.

Importing the package checks the stack and registers nothing: a config that names
``mmseg_xmodal.X`` imports what it needs.
"""

from .compat import require_stack, warn_untested_versions
from .version import __version__

require_stack()
warn_untested_versions()

__all__ = ['__version__']
