from .adversarial import (
    AdversarialOptimWrapperConstructor,
    AdversarialOptimWrapperDict,
)
from .gradient_rules import GradientRuleAmpOptimWrapper, GradientRuleOptimWrapper
from .param_groups import ParamGroupOptimWrapperConstructor
from .skipping import SkipBadLosses, SkippingAmpOptimWrapper, SkippingOptimWrapper

__all__ = [
    'AdversarialOptimWrapperConstructor',
    'AdversarialOptimWrapperDict',
    'GradientRuleAmpOptimWrapper',
    'GradientRuleOptimWrapper',
    'ParamGroupOptimWrapperConstructor',
    'SkipBadLosses',
    'SkippingAmpOptimWrapper',
    'SkippingOptimWrapper',
]
