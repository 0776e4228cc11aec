"""Attention necks: between any backbone and any head of mmseg."""

# A layer for the transformers of others; imported here, so that its type is known.
from ..layers.multi_scale_deformable import MultiScaleDeformableAttention
from .adaptive_gate import AdaptiveGateNeck
from .cross_modal_attention import CrossModalAttentionNeck
from .deformable_fusion import DeformableFusionNeck
from .prompt_attention import PromptAttentionNeck
from .self_attention import SelfAttentionNeck

__all__ = [
    'AdaptiveGateNeck',
    'CrossModalAttentionNeck',
    'DeformableFusionNeck',
    'MultiScaleDeformableAttention',
    'PromptAttentionNeck',
    'SelfAttentionNeck',
]
