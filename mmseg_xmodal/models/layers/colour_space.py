"""Where colour lies in the input of a network, and how it was normalised."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class ColourSpace(NamedTuple):
    """Three channels of a normalised batch.

    Args:
        channels: Positions of red, green and blue.
        mean: What was subtracted from them, on the scale 0 to 255.
        std: What they were divided by afterwards.

    Shape:
        - mean, std: (3, 1, 1)
    """

    channels: tuple[int, int, int]
    mean: Tensor
    std: Tensor

    def read(self, images: Tensor) -> Tensor:
        """Colour as red, green, blue on the scale 0 to 255.

        Shape:
            - images: (B, C, H, W), normalised
            - output: (B, 3, H, W) float32
        """
        return images[:, list(self.channels)].float() * self.std + self.mean

    def write(self, images: Tensor, colour: Tensor) -> Tensor:
        """A copy of the images with this colour.

        Shape:
            - images: (B, C, H, W), normalised
            - colour: (B, 3, H, W) on the scale 0 to 255
        """
        out = images.clone()
        out[:, list(self.channels)] = ((colour - self.mean) / self.std).to(out)
        return out


def colour_spaces(preprocessor: nn.Module) -> list[ColourSpace]:
    """Every colour image in the batches that a preprocessor makes.

    Args:
        preprocessor: Ours, or mmseg's ``SegDataPreProcessor`` with mean and std of
            three channels, loaded as BGR as mmseg does.

    Raises:
        ValueError: If there is no colour, or it is not known how it is normalised.
    """
    mean, std = (getattr(preprocessor, name, None) for name in ('mean', 'std'))
    found: list[tuple[int, int, int]] = []
    layout = getattr(preprocessor, 'layout', None)
    if layout is not None:
        for m in layout:
            if m.order is not None and m.channels == 3:
                i = layout.value_slice(m.name).start
                found.append(
                    (i, i + 1, i + 2) if m.order == 'rgb' else (i + 2, i + 1, i)
                )
    elif isinstance(mean, Tensor) and mean.numel() == 3:
        # mmseg 1.2.2 names it without the underscore, the maintained fork with one.
        swapped = getattr(preprocessor, 'channel_conversion', None)
        if swapped is None:
            swapped = getattr(preprocessor, '_channel_conversion', False)
        found.append((0, 1, 2) if swapped else (2, 1, 0))
    if not found or not isinstance(mean, Tensor) or not isinstance(std, Tensor):
        raise ValueError(
            f'The data_preprocessor {type(preprocessor).__name__} does not say where '
            'colour is and how it was normalised, expected ModalityPreprocessor with '
            "a modality of order='rgb', or SegDataPreProcessor with mean and std of "
            'three channels. Set it in the student, or leave colour alone: '
            'augment=None, no FourierDomainAdaptation.'
        )
    flat = [torch.as_tensor(t).reshape(-1, 1, 1) for t in (mean, std)]
    return [ColourSpace(c, flat[0][list(c)], flat[1][list(c)]) for c in found]
