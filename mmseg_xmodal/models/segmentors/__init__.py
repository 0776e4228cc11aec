from .domain_adaptive import DomainAdaptiveSegmentor
from .domain_adaptive_state import plain_state_dict
from .multi_resolution import MultiResolutionSegmentor
from .multitask import MultiTaskEncoderDecoder
from .tta import XModalTTAModel

__all__ = [
    'DomainAdaptiveSegmentor',
    'MultiResolutionSegmentor',
    'MultiTaskEncoderDecoder',
    'XModalTTAModel',
    'plain_state_dict',
]
