"""Cut fixed margins off."""

from __future__ import annotations

import numpy as np
from mmcv.transforms import BaseTransform

from mmseg_xmodal.registry import TRANSFORMS


@TRANSFORMS.register_module()
class CropMargins(BaseTransform):
    """Cut columns and rows off that a data set does not evaluate.

    What is cut off is gone: ``ori_shape`` becomes the new size, so that predictions
    have it too. Load the annotations before; in test-time augmentation, which loads
    them last, cut them apart with ``only_labels=True``.

    Args:
        left: Columns on the left.
        top: Rows at the top.
        right: Columns on the right.
        bottom: Rows at the bottom.
        only_labels: Leave the image, which is cut already, alone.

    Shape:
        - img: (H, W, C); gt_seg_map: (H, W)

    Raises:
        ValueError: If a number is negative.
    """

    def __init__(
        self,
        left: int = 0,
        top: int = 0,
        right: int = 0,
        bottom: int = 0,
        only_labels: bool = False,
    ) -> None:
        self.margins = (left, top, right, bottom)
        self.only_labels = only_labels
        if min(self.margins) < 0:
            raise ValueError(
                f'{self}, expected 0 or more pixels on each side. Change it in the '
                'pipeline.'
            )

    def transform(self, results: dict) -> dict:
        """Cut ``img`` and the label maps.

        Raises:
            ValueError: If nothing would be left.
        """
        for key in results.get('seg_fields', ()):
            results[key] = self._cut(results[key], results)
        if not self.only_labels:
            results['img'] = self._cut(results['img'], results)
            results['img_shape'] = results['ori_shape'] = results['img'].shape[:2]
        return results

    def _cut(self, image: np.ndarray, results: dict) -> np.ndarray:
        left, top, right, bottom = self.margins
        height, width = image.shape[:2]
        if top + bottom >= height or left + right >= width:
            raise ValueError(
                f'{self} leaves nothing of {results.get("img_path")!r}, {height} x '
                f'{width} (height x width). Give smaller margins.'
            )
        return image[top : height - bottom, left : width - right]

    def __repr__(self) -> str:
        left, top, right, bottom = self.margins
        only = f', only_labels={self.only_labels}'
        return f'CropMargins({left=}, {top=}, {right=}, {bottom=}{only})'
