from .inference import inference_xmodal, init_model
from .inferencer import XModalInferencer

__all__ = ['XModalInferencer', 'inference_xmodal', 'init_model']
