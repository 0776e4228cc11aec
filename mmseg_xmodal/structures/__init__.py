from .modality import Modality, ModalityLayout
from .prompt_features import PromptFeatures

__all__ = ['Modality', 'ModalityLayout', 'PromptFeatures']
