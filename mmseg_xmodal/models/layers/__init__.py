"""Blocks that several methods share."""

from .drop_path import DropPath, linear_drop_path
from .initialisation import segformer_init
from .mit import MIT_VARIANTS, MiTVariant, MixTransformer, NormEps
from .staged import advance, staged_forward, supported_backbones
from .streams import StreamInput, fuse_levels, fuse_stages
from .swin import Swin
from .swin_sizes import SWIN_VARIANTS, SwinVariant
from .task_batch import TaskBatch, connected_zero
from .tokens import to_map, to_tokens

__all__ = [
    'DropPath',
    'MIT_VARIANTS',
    'MiTVariant',
    'MixTransformer',
    'NormEps',
    'SWIN_VARIANTS',
    'StreamInput',
    'Swin',
    'SwinVariant',
    'TaskBatch',
    'advance',
    'connected_zero',
    'fuse_levels',
    'fuse_stages',
    'linear_drop_path',
    'segformer_init',
    'staged_forward',
    'supported_backbones',
    'to_map',
    'to_tokens',
]
