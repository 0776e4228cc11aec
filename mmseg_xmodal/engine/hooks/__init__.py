from .attention_maps import AttentionMapHook
from .freeze_norm_stats import FreezeNormStatsHook
from .random_state import RandomStateHook
from .visualization import XModalVisualizationHook

__all__ = [
    'AttentionMapHook',
    'FreezeNormStatsHook',
    'RandomStateHook',
    'XModalVisualizationHook',
]
