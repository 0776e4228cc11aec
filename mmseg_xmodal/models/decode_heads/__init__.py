"""Decode heads."""

from .cmnext_head import CMNeXtHead
from .cmx_head import CMXHead
from .fast_segformer_head import FastSegformerHead

__all__ = [
    'CMNeXtHead',
    'CMXHead',
    'FastSegformerHead',
]
