from .cutout import XModalCutOut
from .dropout import ModalityDropout
from .fill import FillInvalid
from .formatting import PackXModalInputs
from .loading import LoadModalities
from .on_modalities import OnModalities

__all__ = [
    'FillInvalid',
    'LoadModalities',
    'ModalityDropout',
    'OnModalities',
    'PackXModalInputs',
    'XModalCutOut',
]
