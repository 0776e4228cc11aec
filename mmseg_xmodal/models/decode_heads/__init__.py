"""Decode heads."""

from .cmx_head import CMXHead
from .fast_segformer_head import FastSegformerHead

__all__ = ['CMXHead', 'FastSegformerHead']
