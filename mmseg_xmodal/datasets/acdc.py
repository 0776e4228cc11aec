"""ACDC: street scenes in fog, at night, in rain and in snow.

Paper: ACDC: The Adverse Conditions Dataset with Correspondences for Semantic Driving
Scene Understanding, ICCV 2021, https://arxiv.org/abs/2104.13395. Labels of the test
images are with the evaluation server.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmseg_xmodal.registry import DATASETS

from .driving import RGB, DrivingDataset
from .multimodal import LABELS

CONDITIONS = ('fog', 'night', 'rain', 'snow')
SPLITS = ('train', 'val', 'test', 'train_ref', 'val_ref', 'test_ref')


@DATASETS.register_module()
class ACDCXModalDataset(DrivingDataset):
    """RGB with the 19 classes of Cityscapes, all conditions or some of them.

    .. code-block:: none

        rgb_anon/CONDITION/SPLIT/SEQUENCE/NAME_rgb_anon.png
        gt/CONDITION/SPLIT/SEQUENCE/NAME_gt_labelTrainIds.png

    as the package has it. (DAFormer's code flattens it, and loses the condition.) The
    condition of a sample stands in ``results['condition']``;
    ``PackXModalInputs(extra_meta_keys=['condition'])`` keeps it.

    Args:
        modalities: The config's ``modalities``. Defaults to RGB.
        split: ``'train'``, ``'val'``, ``'test'`` (without labels), or the reference
            images in good weather, ``'train_ref'`` and so on (without labels).
        conditions: Any of ``'fog'``, ``'night'``, ``'rain'``, ``'snow'``: one name or
            several. Defaults to all.
        kwargs: As for :class:`DrivingDataset`.

    Raises:
        ValueError: If the split or a condition is unknown.
    """

    FOLDERS = dict(rgb='rgb_anon', seg_map_path='gt')
    SUFFIXES = dict(rgb='_rgb_anon.png', seg_map='_gt_labelTrainIds.png')

    def __init__(
        self,
        modalities: Any = RGB,
        split: str = 'train',
        conditions: str | Sequence[str] = CONDITIONS,
        data_prefix: Mapping[str, str | None] | None = None,
        **kwargs: Any,
    ) -> None:
        several = [conditions] if isinstance(conditions, str) else list(conditions)
        unknown = sorted(set(several) - set(CONDITIONS))
        if unknown or not several or split not in SPLITS:
            raise ValueError(
                f'ACDCXModalDataset has split={split!r} and conditions={conditions!r}, '
                f'expected one of {list(SPLITS)} and some of {list(CONDITIONS)}. '
                'Change them in the data set.'
            )
        self.part, self.conditions = split, tuple(several)
        if split not in ('train', 'val'):
            data_prefix = {LABELS: None, **(data_prefix or {})}
        super().__init__(modalities, data_prefix=data_prefix, **kwargs)

    def _stems(self, key: str) -> set[str]:
        return {
            stem
            for stem in super()._stems(key)
            if stem.split('/')[0] in self.conditions
            and stem.split('/')[1:2] == [self.part]
        }

    def _data_info(self, stem: str, found: Mapping[str, set[str]]) -> dict:
        return dict(super()._data_info(stem, found), condition=stem.split('/')[0])
