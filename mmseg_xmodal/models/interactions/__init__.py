"""Interactions: features of several tasks exchange what they know."""

from .base import TaskInteraction
from .inverted_pyramid import InvertedPyramidAttention
from .multi_scale_distillation import MultiScaleDistillation

__all__ = [
    'InvertedPyramidAttention',
    'MultiScaleDistillation',
    'TaskInteraction',
]
