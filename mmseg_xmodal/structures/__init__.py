from .modality import Modality, ModalityLayout

__all__ = ['Modality', 'ModalityLayout']
