"""Colour jitter and blur as the CMNeXt family trains with them.

mmseg's ``PhotoMetricDistortion`` is another augmentation: it adds to the brightness,
turns the hue, and acts on every image. Both transforms here belong into
``OnModalities``.
"""

# Stock transforms draw from numpy's global state, which the samplers seed.
# ruff: noqa: NPY002
from __future__ import annotations

import cv2
import mmcv
import numpy as np
from mmcv.transforms import BaseTransform

from mmseg_xmodal.registry import TRANSFORMS

Range = tuple[float, float]


@TRANSFORMS.register_module()
class ColorJitter(BaseTransform):
    """Scale brightness, contrast and saturation, in this order.

    Each factor is drawn uniformly: 1 leaves the image as it is, 0 makes it black, one
    grey, or colourless.

    Args:
        brightness: Range of the factor.
        contrast: Range of the factor.
        saturation: Range of the factor.
        prob: Share of the images that are changed, in [0, 1].

    Shape:
        - img: (H, W, 3) uint8, BGR

    Raises:
        ValueError: If ``prob`` lies outside [0, 1].
    """

    def __init__(
        self,
        brightness: Range = (0.5, 1.5),
        contrast: Range = (0.5, 1.5),
        saturation: Range = (0.5, 1.5),
        prob: float = 0.2,
    ) -> None:
        _check_share(prob, type(self).__name__)
        self.brightness, self.contrast = brightness, contrast
        self.saturation, self.prob = saturation, prob

    def transform(self, results: dict) -> dict:
        """Change the colours of ``img``, or not."""
        if np.random.rand() >= self.prob:
            return results
        img = results['img']
        img = mmcv.adjust_brightness(img, np.random.uniform(*self.brightness))
        img = mmcv.adjust_contrast(img, np.random.uniform(*self.contrast))
        results['img'] = mmcv.adjust_color(img, np.random.uniform(*self.saturation))
        return results

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(brightness={self.brightness}, contrast='
            f'{self.contrast}, saturation={self.saturation}, prob={self.prob})'
        )


@TRANSFORMS.register_module()
class GaussianBlur(BaseTransform):
    """Blur the image.

    Args:
        kernel_size: Odd size of the kernel in pixels; 0 = as ``sigma`` needs.
        sigma: Range of the standard deviation in pixels; None = 0.8 for a size of 3,
            and 0.15 more for each further pixel. Needed for ``kernel_size=0``.
        prob: Share of the images that are blurred, in [0, 1].

    Shape:
        - img: (H, W, C)

    Raises:
        ValueError: If ``kernel_size`` is negative or even, neither it nor ``sigma``
            says how much to blur, or ``prob`` lies outside [0, 1].
    """

    def __init__(
        self, kernel_size: int = 3, sigma: Range | None = None, prob: float = 0.2
    ) -> None:
        unsaid = kernel_size == 0 and sigma is None
        wrong = kernel_size < 0 or (kernel_size != 0 and kernel_size % 2 != 1)
        if unsaid or wrong:
            raise ValueError(
                f'GaussianBlur has kernel_size={kernel_size} and sigma={sigma}, '
                'expected an odd size above 0, or 0 together with a range of sigma. '
                'Change it in the pipeline.'
            )
        _check_share(prob, type(self).__name__)
        self.kernel_size, self.sigma, self.prob = kernel_size, sigma, prob

    def transform(self, results: dict) -> dict:
        """Blur ``img``, or not."""
        if np.random.rand() >= self.prob:
            return results
        if self.sigma is None:
            # torchvision's rule; OpenCV's own for 3 is another kernel.
            sigma = 0.15 * (self.kernel_size - 1) + 0.5
        else:
            sigma = np.random.uniform(*self.sigma)
        if sigma <= 0:
            return results
        img = results['img']
        size = (self.kernel_size, self.kernel_size)
        results['img'] = cv2.GaussianBlur(img, size, sigma).reshape(img.shape)
        return results

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(kernel_size={self.kernel_size}, sigma='
            f'{self.sigma}, prob={self.prob})'
        )


def _check_share(prob: float, who: str) -> None:
    if not 0 <= prob <= 1:
        raise ValueError(
            f'{who} has prob={prob}, expected a share in [0, 1]. Change it in the '
            'pipeline.'
        )
