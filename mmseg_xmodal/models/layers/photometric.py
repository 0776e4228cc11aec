"""Colour jitter and blur of normalised batches, with every draw in the open.

What DACS (WACV 2021, https://arxiv.org/abs/2007.08702) and DAFormer (CVPR 2022,
https://arxiv.org/abs/2111.14887) do to mixed images through the library kornia 0.5.8
(Apache-2.0): brightness is added, contrast and saturation are multiplied, hue is
turned, in a random order. Later versions of kornia compute ``ColorJitter`` otherwise.
Clean room, nothing copied.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .colour_space import ColourSpace

# DAFormer's; the arguments left out are those of the class below.
DAFORMER: Mapping[str, Any] = MappingProxyType(dict(jitter=0.2))
STEPS = ('brightness', 'contrast', 'saturation', 'hue')


class Jitter(NamedTuple):
    """Draws of one colour jitter.

    Args:
        brightness: Added, on the scale 0 to 1.
        contrast: Factor of the values.
        saturation: Factor of the saturation.
        hue: Turns added to the hue, 1 = the whole circle.
        order: Indices into ``STEPS``.
    """

    brightness: float
    contrast: float
    saturation: float
    hue: float
    order: tuple[int, ...] = (0, 1, 2, 3)


class Photometric(NamedTuple):
    """Draws for one image.

    Args:
        jitter: None = the colours stay.
        sigma: Of the blur, in pixels; None = no blur.
    """

    jitter: Jitter | None = None
    sigma: float | None = None


class StrongAugmentation:
    """Colour jitter, then blur, as in DACS and DAFormer.

    Whether there is a jitter, and whether a blur, is drawn once for the batch; how
    strong they are for each image.

    Args:
        jitter: Strength of brightness, contrast, saturation and hue: DAFormer 0.2, DACS
            0.25.
        jitter_prob: Probability of the jitter, in [0, 1].
        blur_prob: Probability of the blur, in [0, 1].
        sigma: Range of the blur, in pixels.

    Raises:
        ValueError: If a number lies outside of its range.
    """

    def __init__(
        self,
        jitter: float = 0.2,
        jitter_prob: float = 0.8,
        blur_prob: float = 0.5,
        sigma: tuple[float, float] = (0.15, 1.15),
    ) -> None:
        probable = 0 <= jitter_prob <= 1 and 0 <= blur_prob <= 1
        if not (0 <= jitter <= 0.5 and probable and 0 < sigma[0] <= sigma[1]):
            raise ValueError(
                f'augment has jitter={jitter}, jitter_prob={jitter_prob}, blur_prob='
                f'{blur_prob}, sigma={sigma}, expected a strength in [0, 0.5], '
                'probabilities in [0, 1] and an ascending range above 0.'
            )
        self.jitter, self.sigma = jitter, tuple(sigma)
        self.jitter_prob, self.blur_prob = jitter_prob, blur_prob

    def draw(self, count: int, rng: Any = np.random) -> list[Photometric]:
        """Draw for a batch.

        Args:
            count: Number of images.
            rng: A ``numpy.random.RandomState``; by default numpy's global one, which
                ``RandomStateHook`` saves.
        """
        has_jitter = rng.uniform() > 1 - self.jitter_prob
        has_blur = rng.uniform() > 1 - self.blur_prob
        draws = []
        for _ in range(count):
            jitter = sigma = None
            if has_jitter:
                b, c, s, h = rng.uniform(-self.jitter, self.jitter, 4)
                jitter = Jitter(b, 1 + c, 1 + s, h, tuple(rng.permutation(4).tolist()))
            if has_blur:
                sigma = float(rng.uniform(*self.sigma))
            draws.append(Photometric(jitter, sigma))
        return draws

    def __call__(
        self,
        images: Tensor,
        colours: Sequence[ColourSpace],
        draws: Sequence[Photometric],
    ) -> Tensor:
        """Augment the colour of a normalised batch; other channels stay.

        Shape:
            - images, output: (B, C, H, W)
        """
        # The blur is a convolution: in half precision it errs by more than 1 of 255.
        with torch.autocast(images.device.type, enabled=False):
            for space in colours:
                colour = space.read(images) / 255
                changed = [
                    photometric(c[None], draw)
                    for c, draw in zip(colour, draws, strict=True)
                ]
                images = space.write(images, torch.cat(changed) * 255)
        return images


def photometric(colour: Tensor, draw: Photometric) -> Tensor:
    """Apply what was drawn.

    Shape:
        - colour, output: (B, 3, H, W), red, green, blue, 0 to 1
    """
    if draw.jitter is not None:
        for step in draw.jitter.order:
            colour = _adjust(colour, STEPS[step], draw.jitter)
    if draw.sigma is not None:
        colour = gaussian_blur(colour, draw.sigma)
    return colour


def _adjust(colour: Tensor, step: str, jitter: Jitter) -> Tensor:
    if step == 'brightness':
        return (colour + jitter.brightness).clamp(0, 1)
    if step == 'contrast':
        return (colour * jitter.contrast).clamp(0, 1)
    hue, saturation, value = rgb_to_hsv(colour)
    if step == 'saturation':
        saturation = (saturation * jitter.saturation).clamp(0, 1)
    else:
        hue = (hue + jitter.hue) % 1
    return hsv_to_rgb(hue, saturation, value)


def rgb_to_hsv(colour: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hue in turns [0, 1), saturation and value.

    Shape:
        - colour: (B, 3, H, W)
        - outputs: (B, H, W)
    """
    value, index = colour.max(dim=1)
    spread = value - colour.min(dim=1).values
    saturation = spread / value.clamp(min=1e-8)
    red, green, blue = colour.unbind(1)
    safe = torch.where(spread > 0, spread, torch.ones_like(spread))
    sector = torch.stack(
        [(green - blue) / safe, 2 + (blue - red) / safe, 4 + (red - green) / safe], 1
    )
    hue = sector.gather(1, index[:, None])[:, 0]
    return (hue / 6) % 1, saturation, value


def hsv_to_rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Inverse of :func:`rgb_to_hsv`.

    Shape:
        - inputs: (B, H, W)
        - output: (B, 3, H, W)
    """
    channels = []
    for shift in (5, 3, 1):
        k = (hue * 6 + shift) % 6
        distance = torch.minimum(k, 4 - k).clamp(0, 1)
        channels.append(value - value * saturation * distance)
    return torch.stack(channels, dim=1)


def blur_size(length: int) -> int:
    """Side of the blur's window along an axis of this length, about a tenth of it."""
    tenth = math.ceil(0.1 * length)
    return math.floor(tenth - 0.5 + tenth % 2)


def gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """Blur with a window of :func:`blur_size`, borders reflected.

    Shape:
        - images, output: (B, C, H, W)
    """
    for dim in (2, 3):
        # Further out the kernel is below 1e-10, nothing in float32.
        radius = min(blur_size(images.shape[dim]) // 2, math.ceil(7 * sigma))
        if radius < 1:
            continue
        offsets = torch.arange(-radius, radius + 1, device=images.device)
        kernel = torch.exp(-0.5 * (offsets.to(images) / sigma).square())
        shape = [1, 1, 1, 1]
        shape[dim] = len(offsets)
        kernel = (kernel / kernel.sum()).view(shape)
        pad = (0, 0, radius, radius) if dim == 2 else (radius, radius, 0, 0)
        padded = F.pad(images, pad, mode='reflect').flatten(0, 1)[:, None]
        images = F.conv2d(padded, kernel).view(images.shape)
    return images
