from .deliver import DELIVERDataset
from .mcubes import MCubeSDataset
from .mfnet import MFNetDataset
from .multimodal import MultiModalSegDataset
from .nyudv2 import NYUDepthV2Dataset
from .pst900 import PST900Dataset
from .samplers import *  # noqa: F403
from .sunrgbd import SUNRGBDDataset
from .transforms import *  # noqa: F403
from .vizdoom import ViZDoomDataset

__all__ = [
    'DELIVERDataset',
    'MCubeSDataset',
    'MFNetDataset',
    'MultiModalSegDataset',
    'NYUDepthV2Dataset',
    'PST900Dataset',
    'SUNRGBDDataset',
    'ViZDoomDataset',
]
