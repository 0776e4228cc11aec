from .class_stats import ClassStats
from .modality import Modality, ModalityLayout
from .prompt_features import PromptFeatures

__all__ = ['ClassStats', 'Modality', 'ModalityLayout', 'PromptFeatures']
