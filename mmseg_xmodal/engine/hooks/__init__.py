from .random_state import RandomStateHook
from .visualization import XModalVisualizationHook

__all__ = ['RandomStateHook', 'XModalVisualizationHook']
