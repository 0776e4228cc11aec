"""NYU Depth V2 for several tasks: 795 training and 654 test images.

Data: Indoor Segmentation and Support Inference from RGBD Images, ECCV 2012,
https://cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html; see there for its terms. The
layouts are those of the packages that the multi-task literature shares: ATRC and InvPT
(png), ASTMT and MTI-Net (npy). :class:`NYUDepthV2Dataset` reads the RGB-X packages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from mmseg_xmodal.registry import DATASETS

from .multitask import MultiTaskDataset
from .nyudv2 import NYUDepthV2Dataset
from .transforms.target_specs import TargetsCfg

_LAYOUTS = ('png', 'npy')


@DATASETS.register_module()
class NYUDv2MTDataset(MultiTaskDataset):
    """RGB in; 40 classes, depth, normals and edges out.

    .. code-block:: none

        images/ID.png          .jpg in the layout 'npy'
        segmentation/ID.png    0 = void, 1..40
        depth/ID.npy           metres; 0 and 255 = no measurement
        normals/ID.png         2 x / 255 - 1; .npy in the layout 'npy'
        edge/ID.png            > 0 = edge; .npy in the layout 'npy'
        gt_sets/train.txt, gt_sets/val.txt      for ann_file

    Tasks: ``depth``, ``normal``, ``edge``. The published root mean square error of
    depth is pooled over the pixels of all images.

    Args:
        modalities: The config's ``modalities``.
        targets: Names among the tasks, or own ones. Defaults to all three.
        layout: ``'png'`` or ``'npy'``, see above.
        suffixes: As for :class:`MultiModalSegDataset`.
        reduce_zero_label: Whether label 0 of the files is void.
        kwargs: As for :class:`MultiTaskDataset`.

    Raises:
        ValueError: If the layout is unknown.
    """

    METAINFO = NYUDepthV2Dataset.METAINFO
    FOLDERS = dict(rgb='images', seg_map_path='segmentation')
    TARGETS: ClassVar[TargetsCfg] = dict(
        depth=dict(kind='depth', suffix='.npy', invalid=255, unit='m'),
        normal=dict(kind='normal', folder='normals'),
        edge=dict(kind='edge'),
    )

    def __init__(
        self,
        modalities: Any,
        targets: TargetsCfg | Sequence[str] | None = None,
        layout: str = 'png',
        suffixes: Mapping[str, str] | None = None,
        reduce_zero_label: bool = True,
        **kwargs: Any,
    ) -> None:
        if layout not in _LAYOUTS:
            raise ValueError(
                f'NYUDv2MTDataset has layout={layout!r}, expected one of '
                f'{list(_LAYOUTS)}: the suffix of the normals. Change it.'
            )
        own = isinstance(targets, Mapping)
        targets = self._chosen(targets)
        if layout == 'npy':
            suffixes = {'rgb': '.jpg', **(suffixes or {})}
            if not own:
                targets = {n: {**t, 'suffix': '.npy'} for n, t in targets.items()}
        super().__init__(
            modalities,
            targets=targets,
            suffixes=suffixes,
            reduce_zero_label=reduce_zero_label,
            **kwargs,
        )
