"""Say where a teacher's labels of an image are not to be trusted.

Source: the training code of HRDA, https://arxiv.org/abs/2204.13132,
https://github.com/lhoyer/HRDA (Apache-2.0). Clean room, nothing copied.
"""

from __future__ import annotations

import numpy as np
from mmcv.transforms import BaseTransform

from mmseg_xmodal.registry import TRANSFORMS

KEY = 'gt_pseudo_valid'


@TRANSFORMS.register_module()
class PseudoLabelMargins(BaseTransform):
    """Mark margins, such as the car's bonnet, in which pseudo-labels do not count.

    Put it right after the image is loaded: the mark goes through resizing, cropping and
    flipping with the image. ``PackXModalInputs(raster_keys=['gt_pseudo_valid'])`` packs
    it, and the adaptation terms read it.

    Args:
        top: Rows at the top, in pixels of the image as it is here. HRDA and MIC have 30
            for Cityscapes.
        bottom: Rows at the bottom: 240.
        left: Columns on the left: 30.
        right: Columns on the right: 30.

    Shape:
        - gt_pseudo_valid: (H, W) uint8, 1 = counts, 0 = does not

    Raises:
        ValueError: If a number is negative.
    """

    def __init__(
        self, top: int = 0, bottom: int = 0, left: int = 0, right: int = 0
    ) -> None:
        self.margins = dict(top=top, bottom=bottom, left=left, right=right)
        if min(self.margins.values()) < 0:
            raise ValueError(
                f'PseudoLabelMargins has {self.margins}, expected 0 or more pixels.'
            )

    def transform(self, results: dict) -> dict:
        """Add the mark to a sample.

        Raises:
            ValueError: If nothing of the image would count.
        """
        height, width = results['img'].shape[:2]
        m = self.margins
        valid = np.zeros((height, width), np.uint8)
        valid[m['top'] : height - m['bottom'], m['left'] : width - m['right']] = 1
        if m['top'] + m['bottom'] >= height or m['left'] + m['right'] >= width:
            raise ValueError(
                f'{self} leaves nothing of {results.get("img_path")!r}, {height} x '
                f'{width} (height x width). Give smaller margins, or put it before '
                'the image is resized.'
            )
        results[KEY] = valid
        results.setdefault('seg_fields', []).append(KEY)
        return results

    def __repr__(self) -> str:
        inner = ', '.join(f'{name}={size}' for name, size in self.margins.items())
        return f'PseudoLabelMargins({inner})'
