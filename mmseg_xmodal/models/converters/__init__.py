"""Foreign checkpoints into ours: key maps, strict loading, initialisation."""

from . import cmx
from .initialiser import InitReport, initialise_streams
from .io import load_state, read_checkpoint
from .mit import Converted, convert_mit
from .official import OFFICIAL, Official, convert_official, recognise

__all__ = [
    'OFFICIAL',
    'Converted',
    'InitReport',
    'Official',
    'cmx',
    'convert_mit',
    'convert_official',
    'initialise_streams',
    'load_state',
    'read_checkpoint',
    'recognise',
]
