"""Modules through which the streams of a backbone meet.

The interface: ``forward(feats, valid) -> (streams, fused)``, where ``feats`` is a list
of maps (B, C, h, w), ``valid`` a list of (B, 1, h, w) in [0, 1] or None, ``streams``
the maps with which the streams go on, and ``fused`` the map for the decoder. A validity
of all ones gives the numbers of None.
"""

from .build import build_fusions
from .cmx_fusion import CMXFusion
from .concat import ConcatFusion
from .cross_fusion import FeatureFusionModule
from .mean import MeanFusion
from .mix_se import MixSEFusion
from .pixel_pair import PixelPairFusion
from .rectify import FeatureRectifyModule
from .self_query import SelfQueryHub
from .stack import StackStreams

__all__ = [
    'CMXFusion',
    'ConcatFusion',
    'FeatureFusionModule',
    'FeatureRectifyModule',
    'MeanFusion',
    'MixSEFusion',
    'PixelPairFusion',
    'SelfQueryHub',
    'StackStreams',
    'build_fusions',
]
