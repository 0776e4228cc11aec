from .attention_maps import AttentionMapHook
from .delta_m import DeltaMHook
from .ema_teacher import EMATeacherHook
from .famo import FAMOHook
from .freeze_norm_stats import FreezeNormStatsHook
from .random_state import RandomStateHook
from .task_balance import TaskBalanceHook
from .visualization import XModalVisualizationHook

__all__ = [
    'AttentionMapHook',
    'DeltaMHook',
    'EMATeacherHook',
    'FAMOHook',
    'FreezeNormStatsHook',
    'RandomStateHook',
    'TaskBalanceHook',
    'XModalVisualizationHook',
]
