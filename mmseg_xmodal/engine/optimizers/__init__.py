from .gradient_rules import GradientRuleAmpOptimWrapper, GradientRuleOptimWrapper
from .param_groups import ParamGroupOptimWrapperConstructor
from .skipping import SkipBadLosses, SkippingAmpOptimWrapper, SkippingOptimWrapper

__all__ = [
    'GradientRuleAmpOptimWrapper',
    'GradientRuleOptimWrapper',
    'ParamGroupOptimWrapperConstructor',
    'SkipBadLosses',
    'SkippingAmpOptimWrapper',
    'SkippingOptimWrapper',
]
