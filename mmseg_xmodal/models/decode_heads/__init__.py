"""Decode heads."""

from .cmnext_head import CMNeXtHead
from .cmx_head import CMXHead
from .fast_segformer_head import FastSegformerHead
from .gemini_head import GeminiHead
from .ham_head import HamHead
from .tokenfusion_head import TokenFusionHead

__all__ = [
    'CMNeXtHead',
    'CMXHead',
    'FastSegformerHead',
    'GeminiHead',
    'HamHead',
    'TokenFusionHead',
]
