"""PASCAL-Context for several tasks: 4998 training and 5105 validation images.

Data: PASCAL VOC 2010, http://host.robots.ox.ac.uk/pascal/VOC/; PASCAL-Context, 2014,
https://cs.stanford.edu/~roozbeh/pascal-context/; PASCAL-Part, 2014,
http://roozbehm.info/pascal-parts/pascal-parts.html; saliency and normals distilled from
networks by ASTMT, 2019, https://arxiv.org/abs/1904.08918. Each has terms of its own.
``tools/dataset_converters/pascal_context_mt.py`` writes the maps that are read here.
"""

from __future__ import annotations

from typing import ClassVar

from mmseg.datasets import PascalVOCDataset

from mmseg_xmodal.registry import DATASETS

from .multitask import MultiTaskDataset
from .transforms.target_specs import TargetsCfg

_PARTS = (
    'background',
    'head',
    'torso',
    'upper arms',
    'lower arms',
    'upper legs',
    'lower legs',
)


@DATASETS.register_module()
class PASCALContextMTDataset(MultiTaskDataset):
    """RGB in; 21 classes, human parts, saliency, normals and edges out.

    .. code-block:: none

        JPEGImages/ID.jpg
        multitask/semseg/ID.png        0..20, 255 = ignored
        multitask/human_parts/ID.png   0..6; all 255 where nobody is annotated
        multitask/saliency/ID.png      0, 1
        multitask/normals/ID.png       2 x / 255 - 1; grey (no vector) = no truth
        multitask/edges/ID.png         0, 1; one pixel wide
        ImageSets/Context/train.txt, ImageSets/Context/val.txt     for ann_file

    The converter makes ``multitask`` from the package. Tasks: ``human_parts``,
    ``saliency``, ``normal``, ``edge``.

    Args:
        modalities: The config's ``modalities``.
        targets: Names among the tasks, or own ones. Defaults to all four.
        kwargs: As for :class:`MultiTaskDataset`.
    """

    METAINFO = PascalVOCDataset.METAINFO
    FOLDERS = dict(rgb='JPEGImages', seg_map_path='multitask/semseg')
    SUFFIXES = dict(rgb='.jpg')
    PARTS: ClassVar[tuple[str, ...]] = _PARTS
    TARGETS: ClassVar[TargetsCfg] = dict(
        human_parts=dict(kind='label', folder='multitask/human_parts', classes=_PARTS),
        saliency=dict(
            kind='label',
            folder='multitask/saliency',
            classes=('background', 'salient'),
        ),
        normal=dict(kind='normal', folder='multitask/normals'),
        edge=dict(kind='edge', folder='multitask/edges'),
    )
