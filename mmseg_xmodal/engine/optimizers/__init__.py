from .adversarial import (
    AdversarialOptimWrapperConstructor,
    AdversarialOptimWrapperDict,
)
from .gradient_rules import GradientRuleAmpOptimWrapper, GradientRuleOptimWrapper
from .param_groups import ParamGroupOptimWrapperConstructor
from .skipping import SkipBadLosses, SkippingAmpOptimWrapper, SkippingOptimWrapper
from .student import StudentOptimWrapperConstructor

__all__ = [
    'AdversarialOptimWrapperConstructor',
    'AdversarialOptimWrapperDict',
    'GradientRuleAmpOptimWrapper',
    'GradientRuleOptimWrapper',
    'ParamGroupOptimWrapperConstructor',
    'SkipBadLosses',
    'SkippingAmpOptimWrapper',
    'SkippingOptimWrapper',
    'StudentOptimWrapperConstructor',
]
