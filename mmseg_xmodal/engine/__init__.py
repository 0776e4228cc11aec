from .hooks import RandomStateHook, XModalVisualizationHook
from .loops import ModalitySubsetTestLoop

__all__ = ['ModalitySubsetTestLoop', 'RandomStateHook', 'XModalVisualizationHook']
