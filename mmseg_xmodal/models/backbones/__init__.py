"""Multi-modal backbones."""

from ..layers.mit import MixTransformer
from .cmnext import CMNeXt
from .cmx import CMX
from .cmx_swin import CMXSwin
from .dformer import DFormer
from .dformerv2 import DFormerv2
from .geminifusion import GeminiFusion
from .hf_stream import HFStream
from .mmsformer import MMSFormer
from .multi_stream import MultiStreamBackbone
from .stitchfusion import StitchFusion
from .timm_stream import TimmStream
from .tokenfusion import TokenFusion

__all__ = [
    'CMNeXt',
    'CMX',
    'CMXSwin',
    'DFormer',
    'DFormerv2',
    'GeminiFusion',
    'HFStream',
    'MMSFormer',
    'MixTransformer',
    'MultiStreamBackbone',
    'StitchFusion',
    'TimmStream',
    'TokenFusion',
]
