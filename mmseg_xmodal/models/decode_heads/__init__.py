"""Decode heads."""

from .center_detection_head import CenterDetectionHead
from .classification_head import ClassificationHead
from .cmnext_head import CMNeXtHead
from .cmx_head import CMXHead
from .daformer_head import DAFormerHead
from .deeplabv2_head import DeepLabV2Head
from .depth_head import DepthHead
from .edge_head import EdgeHead
from .fast_segformer_head import FastSegformerHead
from .gemini_head import GeminiHead
from .ham_head import HamHead
from .mmdet_head import MMDetHead
from .multi_resolution_head import MultiResolutionHead
from .normal_head import NormalHead
from .seg_task_head import SegTaskHead
from .tokenfusion_head import TokenFusionHead

__all__ = [
    'CMNeXtHead',
    'CMXHead',
    'CenterDetectionHead',
    'ClassificationHead',
    'DAFormerHead',
    'DeepLabV2Head',
    'DepthHead',
    'EdgeHead',
    'FastSegformerHead',
    'GeminiHead',
    'HamHead',
    'MMDetHead',
    'MultiResolutionHead',
    'NormalHead',
    'SegTaskHead',
    'TokenFusionHead',
]
