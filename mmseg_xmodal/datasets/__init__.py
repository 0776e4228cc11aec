from .multimodal import MultiModalSegDataset
from .samplers import *  # noqa: F403
from .transforms import *  # noqa: F403
from .vizdoom import ViZDoomDataset

__all__ = ['MultiModalSegDataset', 'ViZDoomDataset']
