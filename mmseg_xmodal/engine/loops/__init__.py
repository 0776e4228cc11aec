from .modality_subset import ModalitySubsetTestLoop
from .test_time_adapt import TestTimeAdaptLoop

__all__ = ['ModalitySubsetTestLoop', 'TestTimeAdaptLoop']
