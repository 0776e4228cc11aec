"""COCO for segmentation and detection: 171 classes, 80 of them with boxes.

Data: Microsoft COCO, 2014, https://arxiv.org/abs/1405.0312, terms:
https://cocodataset.org/#termsofuse; COCO-Stuff, 2018, https://arxiv.org/abs/1612.03716,
https://github.com/nightrome/cocostuff; see there for its terms.
"""

from __future__ import annotations

from typing import ClassVar

from mmseg.datasets import COCOStuffDataset

from mmseg_xmodal.registry import DATASETS

from .multitask import MultiTaskDataset
from .transforms.target_specs import TargetsCfg

# The classes that are objects come first, in the order of COCO's categories.
_THINGS = tuple(COCOStuffDataset.METAINFO['classes'][:80])


@DATASETS.register_module()
class CocoSegDetDataset(MultiTaskDataset):
    """RGB in; 171 classes and boxes of 80 out.

    .. code-block:: none

        train2017/ID.jpg, val2017/ID.jpg
        annotations/instances_train2017.json, ...
        stuffthingmaps/train2017/ID_labelTrainIds.png, ...

    ``split`` is ``'train2017'`` or ``'val2017'``. mmseg's ``coco_stuff164k.py`` makes
    the files ``_labelTrainIds.png``; its layout is read with
    ``data_prefix=dict(rgb='images', seg_map_path='annotations')``.

    Task: ``det``. COCO's category ids go from 1 to 90 with gaps; labels of boxes count
    from 0 to 79 and are the ids of the label map too. Crowds are ignored, boxes without
    area are left out.

    Args:
        modalities: The config's ``modalities``.
        targets: As for :class:`MultiTaskDataset`. Defaults to the boxes.
        kwargs: As for :class:`MultiTaskDataset`.
    """

    METAINFO = COCOStuffDataset.METAINFO
    FOLDERS = dict(rgb='', seg_map_path='stuffthingmaps')
    SUFFIXES = dict(rgb='.jpg', seg_map='_labelTrainIds.png')
    THINGS: ClassVar[tuple[str, ...]] = _THINGS
    TARGETS: ClassVar[TargetsCfg] = dict(
        det=dict(
            kind='boxes',
            ann_file='annotations/instances_{split}.json',
            classes=_THINGS,
            bad_boxes='drop',
        )
    )
