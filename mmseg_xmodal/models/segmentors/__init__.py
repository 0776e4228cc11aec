from .tta import XModalTTAModel

__all__ = ['XModalTTAModel']
