"""Attention kernels behind one explicit choice of back end.

Nothing here imports mmengine or mmseg: with torch alone every operation runs, and
Triton adds kernels on CUDA. ``MMSEG_XMODAL_OPS_BACKEND`` overrides every
``backend='auto'``; see :mod:`.dispatch`.
"""

from .criss_cross import criss_cross_attention
from .dispatch import BACKENDS, ENVIRONMENT
from .modality_attention import modality_attention
from .msda import multi_scale_deformable_attention
from .window_attention import windowed_cross_attention

__all__ = [
    'BACKENDS',
    'ENVIRONMENT',
    'criss_cross_attention',
    'modality_attention',
    'multi_scale_deformable_attention',
    'windowed_cross_attention',
]
