from .copy_paste import CopyPaste
from .cutout import XModalCutOut
from .dropout import ModalityDropout
from .fill import FillInvalid
from .formatting import PackXModalInputs
from .fourier_style import FourierStyle
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
from .pseudo_margins import PseudoLabelMargins
from .rare_crop import MinimumClassPixelsCrop
from .stored_labels import LoadPseudoLabels
from .targets import LoadTargets

__all__ = [
    'ColorJitter',
    'CopyPaste',
    'CropMargins',
    'FillInvalid',
    'FourierStyle',
    'GaussianBlur',
    'LoadLabels',
    'LoadModalities',
    'LoadPseudoLabels',
    'LoadTargets',
    'MinimumClassPixelsCrop',
    'ModalityDropout',
    'OnModalities',
    'PackXModalInputs',
    'PseudoLabelMargins',
    'XModalCutOut',
    'XModalRandomCrop',
    'XModalRandomFlip',
    'XModalRandomResize',
    'XModalRandomRotate',
    'XModalResize',
]
