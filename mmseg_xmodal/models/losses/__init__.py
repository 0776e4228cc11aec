"""Losses."""

from .class_balanced import ClassBalancedCrossEntropy
from .depth import BerHuLoss, MaskedL1Loss, SILogLoss
from .edge import BalancedBCELoss
from .heatmap import HeatmapFocalLoss
from .normal import NormalCosineLoss
from .ohem import OHEMCrossEntropyLoss

__all__ = [
    'BalancedBCELoss',
    'BerHuLoss',
    'ClassBalancedCrossEntropy',
    'HeatmapFocalLoss',
    'MaskedL1Loss',
    'NormalCosineLoss',
    'OHEMCrossEntropyLoss',
    'SILogLoss',
]
