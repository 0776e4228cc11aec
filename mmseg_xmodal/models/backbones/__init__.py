"""Multi-modal backbones."""

from ..layers.mit import MixTransformer
from .cmx import CMX
from .multi_stream import MultiStreamBackbone

__all__ = ['CMX', 'MixTransformer', 'MultiStreamBackbone']
