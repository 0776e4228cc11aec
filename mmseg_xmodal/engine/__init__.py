from .hooks import (
    AttentionMapHook,
    DeltaMHook,
    EMATeacherHook,
    FAMOHook,
    FreezeNormStatsHook,
    RandomStateHook,
    TaskBalanceHook,
    XModalVisualizationHook,
)
from .loops import ModalitySubsetTestLoop
from .optimizers import (
    GradientRuleAmpOptimWrapper,
    GradientRuleOptimWrapper,
    ParamGroupOptimWrapperConstructor,
    SkippingAmpOptimWrapper,
    SkippingOptimWrapper,
)

__all__ = [
    'AttentionMapHook',
    'DeltaMHook',
    'EMATeacherHook',
    'FAMOHook',
    'FreezeNormStatsHook',
    'GradientRuleAmpOptimWrapper',
    'GradientRuleOptimWrapper',
    'ModalitySubsetTestLoop',
    'ParamGroupOptimWrapperConstructor',
    'RandomStateHook',
    'SkippingAmpOptimWrapper',
    'SkippingOptimWrapper',
    'TaskBalanceHook',
    'XModalVisualizationHook',
]
