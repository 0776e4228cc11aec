"""Plain published forms of the methods, to prove and to time ours against.

``PUBLISHED`` maps a backbone type of ours to ``build(model)``, which makes the
published form of the whole network (backbone and decode head) of a segmentor of ours.
The result has ``load_from(model)`` and ``forward(x)`` from the stacked input to the
logits before the last upsampling.
"""

from collections.abc import Callable

from torch import nn

from .cmnext import build_published_cmnext
from .cmx import build_published_cmx
from .cmx_swin import build_published_cmx_swin
from .dformer import build_published_dformer
from .dformerv2 import build_published_dformerv2
from .geminifusion import build_published_geminifusion
from .mmsformer import build_published_mmsformer
from .stitchfusion import build_published_stitchfusion
from .tokenfusion import build_published_tokenfusion

PUBLISHED: dict[str, Callable[[nn.Module], nn.Module]] = {
    'mmseg_xmodal.CMNeXt': build_published_cmnext,
    'mmseg_xmodal.CMX': build_published_cmx,
    'mmseg_xmodal.CMXSwin': build_published_cmx_swin,
    'mmseg_xmodal.DFormer': build_published_dformer,
    'mmseg_xmodal.DFormerv2': build_published_dformerv2,
    'mmseg_xmodal.GeminiFusion': build_published_geminifusion,
    'mmseg_xmodal.MMSFormer': build_published_mmsformer,
    'mmseg_xmodal.StitchFusion': build_published_stitchfusion,
    'mmseg_xmodal.TokenFusion': build_published_tokenfusion,
}

__all__ = [
    'PUBLISHED',
    'build_published_cmnext',
    'build_published_cmx',
    'build_published_cmx_swin',
    'build_published_dformer',
    'build_published_dformerv2',
    'build_published_geminifusion',
    'build_published_mmsformer',
    'build_published_stitchfusion',
    'build_published_tokenfusion',
]
