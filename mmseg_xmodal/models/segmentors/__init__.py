from .multitask import MultiTaskEncoderDecoder
from .tta import XModalTTAModel

__all__ = ['MultiTaskEncoderDecoder', 'XModalTTAModel']
