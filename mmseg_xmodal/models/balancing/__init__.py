"""Balancing of tasks: loss weights, and rules on their gradients."""

from .aligned_mtl import AlignedMTL
from .base import GradientRule, LossBalancer
from .cagrad import CAGrad
from .dwa import DynamicWeightAverage
from .famo import FAMO
from .fixed import FixedWeights
from .gls import GeometricMeanLoss
from .gradnorm import GradNorm
from .imtl_g import IMTLG
from .imtl_l import IMTLLoss
from .mgda import MGDA
from .pcgrad import PCGrad
from .rlw import RandomLossWeighting
from .sum_rule import SumRule
from .uncertainty import UncertaintyWeighting
from .upgrad import UPGrad

__all__ = [
    'FAMO',
    'IMTLG',
    'MGDA',
    'AlignedMTL',
    'CAGrad',
    'DynamicWeightAverage',
    'FixedWeights',
    'GeometricMeanLoss',
    'GradNorm',
    'GradientRule',
    'IMTLLoss',
    'LossBalancer',
    'PCGrad',
    'RandomLossWeighting',
    'SumRule',
    'UPGrad',
    'UncertaintyWeighting',
]
