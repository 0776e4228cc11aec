from .class_stats import ClassStats
from .modality import Modality, ModalityLayout
from .ontology import DomainOntology
from .prompt_features import PromptFeatures

__all__ = [
    'ClassStats',
    'DomainOntology',
    'Modality',
    'ModalityLayout',
    'PromptFeatures',
]
