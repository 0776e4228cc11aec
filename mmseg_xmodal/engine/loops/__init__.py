from .modality_subset import ModalitySubsetTestLoop

__all__ = ['ModalitySubsetTestLoop']
