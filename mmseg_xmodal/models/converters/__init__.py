"""Foreign checkpoints into ours: key maps, strict loading, initialisation."""

from . import (
    cmnext,
    cmx,
    cmx_swin,
    daformer,
    dformer,
    dformerv2,
    geminifusion,
    mmsformer,
    mobilenetv2,
    stitchfusion,
)
from .initialiser import InitReport, initialise_streams
from .io import load_state, read_checkpoint
from .mit import Converted, convert_mit
from .official import OFFICIAL, Official, convert_official, recognise
from .shared_mit import convert_shared_mit
from .shared_swin import convert_shared_swin
from .swin import convert_swin

__all__ = [
    'Converted',
    'InitReport',
    'OFFICIAL',
    'Official',
    'cmnext',
    'cmx',
    'cmx_swin',
    'convert_mit',
    'convert_official',
    'convert_shared_mit',
    'convert_shared_swin',
    'convert_swin',
    'daformer',
    'dformer',
    'dformerv2',
    'geminifusion',
    'initialise_streams',
    'load_state',
    'mmsformer',
    'mobilenetv2',
    'read_checkpoint',
    'recognise',
    'stitchfusion',
]
