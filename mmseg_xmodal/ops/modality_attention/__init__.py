"""Attention over the modalities of each place."""

from .api import modality_attention

__all__ = ['modality_attention']
