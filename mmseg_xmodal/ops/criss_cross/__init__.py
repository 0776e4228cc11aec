"""Criss-cross attention."""

from .api import criss_cross_attention

__all__ = ['criss_cross_attention']
