"""Foreign checkpoints into ours: key maps, strict loading, initialisation."""

from .cmx import convert_cmx
from .initialiser import InitReport, initialise_streams
from .io import load_state, read_checkpoint
from .mit import Converted, convert_mit

__all__ = [
    'Converted',
    'InitReport',
    'convert_cmx',
    'convert_mit',
    'initialise_streams',
    'load_state',
    'read_checkpoint',
]
