"""Multi-scale deformable attention."""

from .api import multi_scale_deformable_attention

__all__ = ['multi_scale_deformable_attention']
