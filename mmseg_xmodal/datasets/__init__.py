from .acdc import ACDCXModalDataset
from .cityscapes import CityscapesXModalDataset
from .cityscapes_boxes import CityscapesBoxesDataset
from .class_stats import cached_class_stats, count_classes
from .coco_seg_det import CocoSegDetDataset
from .dark_zurich import DarkZurichXModalDataset
from .deliver import DELIVERDataset
from .gta5 import GTA5Dataset
from .mcubes import MCubeSDataset
from .mfnet import MFNetDataset
from .multi_source import MultiSourceDataset
from .multimodal import MultiModalSegDataset
from .multitask import MultiTaskDataset
from .nyudv2 import NYUDepthV2Dataset
from .nyudv2_mt import NYUDv2MTDataset
from .pascal_context_mt import PASCALContextMTDataset
from .pst900 import PST900Dataset
from .samplers import *  # noqa: F403
from .sunrgbd import SUNRGBDDataset
from .synthia import SYNTHIADataset
from .transforms import *  # noqa: F403
from .vizdoom import ViZDoomDataset
from .vizdoom_multitask import ViZDoomMultiTaskDataset

__all__ = [
    'ACDCXModalDataset',
    'CityscapesBoxesDataset',
    'CityscapesXModalDataset',
    'CocoSegDetDataset',
    'DELIVERDataset',
    'DarkZurichXModalDataset',
    'GTA5Dataset',
    'MCubeSDataset',
    'MFNetDataset',
    'MultiModalSegDataset',
    'MultiSourceDataset',
    'MultiTaskDataset',
    'NYUDepthV2Dataset',
    'NYUDv2MTDataset',
    'PASCALContextMTDataset',
    'PST900Dataset',
    'SUNRGBDDataset',
    'SYNTHIADataset',
    'ViZDoomDataset',
    'ViZDoomMultiTaskDataset',
    'cached_class_stats',
    'count_classes',
]
