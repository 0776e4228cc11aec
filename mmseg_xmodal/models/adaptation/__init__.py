from .base import AdaptationStep, AdaptationTerm, DomainBatch
from .class_mix import ClassMixSelfTraining
from .cross_modal_agreement import CrossModalAgreement
from .entropy import EntropyMinimization
from .feature_anchor import FeatureAnchor
from .fourier import FourierDomainAdaptation
from .masked_consistency import MaskedConsistency
from .output_adversarial import OutputAdversarial
from .prototype_contrast import PrototypeContrast
from .stored_labels import StoredPseudoLabels

__all__ = [
    'AdaptationStep',
    'AdaptationTerm',
    'ClassMixSelfTraining',
    'CrossModalAgreement',
    'DomainBatch',
    'EntropyMinimization',
    'FeatureAnchor',
    'FourierDomainAdaptation',
    'MaskedConsistency',
    'OutputAdversarial',
    'PrototypeContrast',
    'StoredPseudoLabels',
]
