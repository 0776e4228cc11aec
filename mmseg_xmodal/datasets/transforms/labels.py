"""Load label maps whose files are no plain grey images."""

from __future__ import annotations

from typing import Any

from mmseg.datasets.transforms import LoadAnnotations

from mmseg_xmodal.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadLabels(LoadAnnotations):
    """mmseg's ``LoadAnnotations`` for files that may have several channels.

    Args:
        channel: The channel that holds the class ids, counted from 0 in the order of
            the file (red, green, blue, alpha). A file with one channel is read as it
            is.
        kwargs: As for mmseg's ``LoadAnnotations``.

    Shape:
        - gt_seg_map: (H, W) uint8
    """

    def __init__(self, channel: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.channel = channel

    def _load_seg_map(self, results: dict) -> None:
        super()._load_seg_map(results)
        labels = results['gt_seg_map']
        if labels.ndim == 2:
            return
        if not 0 <= self.channel < labels.shape[-1]:
            raise ValueError(
                f'LoadLabels: {results["seg_map_path"]!r} has {labels.shape[-1]} '
                f'channels, expected channel {self.channel} among them, counted from '
                '0. Change `channel` of LoadLabels.'
            )
        # mmcv turns the first three channels around, to BGR.
        turned = labels.shape[-1] >= 3 and self.channel < 3
        place = 2 - self.channel if turned else self.channel
        results['gt_seg_map'] = labels[..., place].copy()

    def __repr__(self) -> str:
        return f'{super().__repr__()[:-1]}, channel={self.channel})'
