from .attention_maps import AttentionMapHook
from .collapse_alarm import CollapseAlarmHook
from .delta_m import DeltaMHook
from .ema_teacher import EMATeacherHook
from .famo import FAMOHook
from .freeze_norm_stats import FreezeNormStatsHook
from .label_free_selection import LabelFreeSelectionHook
from .pseudo_label import PseudoLabelHook
from .random_state import RandomStateHook
from .task_balance import TaskBalanceHook
from .visualization import XModalVisualizationHook

__all__ = [
    'AttentionMapHook',
    'CollapseAlarmHook',
    'DeltaMHook',
    'EMATeacherHook',
    'FAMOHook',
    'FreezeNormStatsHook',
    'LabelFreeSelectionHook',
    'PseudoLabelHook',
    'RandomStateHook',
    'TaskBalanceHook',
    'XModalVisualizationHook',
]
