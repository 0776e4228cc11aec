from .copy_paste import CopyPaste
from .cutout import XModalCutOut
from .dropout import ModalityDropout
from .fill import FillInvalid
from .formatting import PackXModalInputs
from .geometry import (
    XModalRandomCrop,
    XModalRandomFlip,
    XModalRandomResize,
    XModalRandomRotate,
    XModalResize,
)
from .labels import LoadLabels
from .loading import LoadModalities
from .margins import CropMargins
from .on_modalities import OnModalities
from .photometric import ColorJitter, GaussianBlur
from .targets import LoadTargets

__all__ = [
    'ColorJitter',
    'CopyPaste',
    'CropMargins',
    'FillInvalid',
    'GaussianBlur',
    'LoadLabels',
    'LoadModalities',
    'LoadTargets',
    'ModalityDropout',
    'OnModalities',
    'PackXModalInputs',
    'XModalCutOut',
    'XModalRandomCrop',
    'XModalRandomFlip',
    'XModalRandomResize',
    'XModalRandomRotate',
    'XModalResize',
]
