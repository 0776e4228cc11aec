from .hooks import (
    AttentionMapHook,
    CollapseAlarmHook,
    DeltaMHook,
    EMATeacherHook,
    FAMOHook,
    FreezeNormStatsHook,
    LabelFreeSelectionHook,
    PseudoLabelHook,
    RandomStateHook,
    TaskBalanceHook,
    XModalVisualizationHook,
)
from .loops import ModalitySubsetTestLoop, TestTimeAdaptLoop
from .model_wrappers import AdaptationDistributedDataParallel
from .optimizers import (
    AdversarialOptimWrapperConstructor,
    AdversarialOptimWrapperDict,
    GradientRuleAmpOptimWrapper,
    GradientRuleOptimWrapper,
    ParamGroupOptimWrapperConstructor,
    SkippingAmpOptimWrapper,
    SkippingOptimWrapper,
)

__all__ = [
    'AdaptationDistributedDataParallel',
    'AdversarialOptimWrapperConstructor',
    'AdversarialOptimWrapperDict',
    'AttentionMapHook',
    'CollapseAlarmHook',
    'DeltaMHook',
    'EMATeacherHook',
    'FAMOHook',
    'FreezeNormStatsHook',
    'GradientRuleAmpOptimWrapper',
    'GradientRuleOptimWrapper',
    'LabelFreeSelectionHook',
    'ModalitySubsetTestLoop',
    'ParamGroupOptimWrapperConstructor',
    'PseudoLabelHook',
    'RandomStateHook',
    'SkippingAmpOptimWrapper',
    'SkippingOptimWrapper',
    'TaskBalanceHook',
    'TestTimeAdaptLoop',
    'XModalVisualizationHook',
]
