"""What the data sets of street scenes have in common: the 19 classes of Cityscapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from mmseg.datasets import CityscapesDataset

from .multimodal import MultiModalSegDataset

RGB: Mapping[str, Any] = dict(rgb=dict(channels=3, order='rgb'))


class DrivingDataset(MultiModalSegDataset):
    """Street scenes with the train ids of Cityscapes, 255 = ignored.

    ``ontology='synthia16'`` (or ``'synthia13'``, or an own one) reduces the classes.
    ``data_prefix=dict(seg_map_path=None)`` makes an unlabelled set of any of them.

    Args:
        modalities: The config's ``modalities``. Defaults to RGB.
        kwargs: As for :class:`MultiModalSegDataset`.
    """

    METAINFO: ClassVar[dict] = CityscapesDataset.METAINFO

    def __init__(self, modalities: Any = RGB, **kwargs: Any) -> None:
        super().__init__(modalities, **kwargs)
