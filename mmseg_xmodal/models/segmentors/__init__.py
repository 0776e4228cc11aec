from .domain_adaptive import DomainAdaptiveSegmentor
from .domain_adaptive_state import plain_state_dict
from .ensemble import SegmentorEnsemble
from .multi_domain import MultiDomainEncoderDecoder
from .multi_domain_state import one_domain_state_dict
from .multi_resolution import MultiResolutionSegmentor
from .multitask import MultiTaskEncoderDecoder
from .tta import XModalTTAModel

__all__ = [
    'DomainAdaptiveSegmentor',
    'MultiDomainEncoderDecoder',
    'MultiResolutionSegmentor',
    'MultiTaskEncoderDecoder',
    'SegmentorEnsemble',
    'XModalTTAModel',
    'one_domain_state_dict',
    'plain_state_dict',
]
