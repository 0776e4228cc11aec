from .base import AdaptationStep, AdaptationTerm, DomainBatch
from .class_mix import ClassMixSelfTraining
from .entropy import EntropyMinimization
from .feature_anchor import FeatureAnchor
from .fourier import FourierDomainAdaptation
from .masked_consistency import MaskedConsistency

__all__ = [
    'AdaptationStep',
    'AdaptationTerm',
    'ClassMixSelfTraining',
    'DomainBatch',
    'EntropyMinimization',
    'FeatureAnchor',
    'FourierDomainAdaptation',
    'MaskedConsistency',
]
