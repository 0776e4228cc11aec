"""Blocks that several methods share."""

from .drop_path import DropPath, linear_drop_path
from .initialisation import segformer_init
from .mit import MIT_VARIANTS, MiTVariant, MixTransformer, NormEps
from .staged import advance, staged_forward, supported_backbones
from .streams import StreamInput, fuse_levels, fuse_stages
from .tokens import to_map, to_tokens

__all__ = [
    'DropPath',
    'MIT_VARIANTS',
    'MiTVariant',
    'MixTransformer',
    'NormEps',
    'StreamInput',
    'advance',
    'fuse_levels',
    'fuse_stages',
    'linear_drop_path',
    'segformer_init',
    'staged_forward',
    'supported_backbones',
    'to_map',
    'to_tokens',
]
