from .cutout import XModalCutOut
from .dropout import ModalityDropout
from .fill import FillInvalid
from .formatting import PackXModalInputs
from .labels import LoadLabels
from .loading import LoadModalities
from .margins import CropMargins
from .on_modalities import OnModalities
from .photometric import ColorJitter, GaussianBlur

__all__ = [
    'ColorJitter',
    'CropMargins',
    'FillInvalid',
    'GaussianBlur',
    'LoadLabels',
    'LoadModalities',
    'ModalityDropout',
    'OnModalities',
    'PackXModalInputs',
    'XModalCutOut',
]
