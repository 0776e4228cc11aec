from .hooks import (
    AttentionMapHook,
    FreezeNormStatsHook,
    RandomStateHook,
    XModalVisualizationHook,
)
from .loops import ModalitySubsetTestLoop
from .optimizers import ParamGroupOptimWrapperConstructor

__all__ = [
    'AttentionMapHook',
    'FreezeNormStatsHook',
    'ModalitySubsetTestLoop',
    'ParamGroupOptimWrapperConstructor',
    'RandomStateHook',
    'XModalVisualizationHook',
]
