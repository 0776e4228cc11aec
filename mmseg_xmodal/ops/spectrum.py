"""Low frequencies of one image with the phases of another.

Paper: FDA, Yang and Soatto, "Fourier Domain Adaptation for Semantic Segmentation", CVPR
2020, https://arxiv.org/abs/2004.05498. The official code has no licence and was not
opened; written from the paper and a description. Clean room, nothing copied.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def swap_amplitude(
    source: Tensor, target: Tensor, beta: float, mode: str = 'corner'
) -> Tensor:
    """The source with the target's amplitudes at low frequencies.

    Args:
        source: Images; their phases stay.
        target: Images of the same size.
        beta: Half of the band as a share of the shorter side, in [0, 0.5].
        mode: ``'corner'``: frequencies -b to b - 1 along each axis (the published
            training, nothing for b = 0); ``'centered'``: -b to b.

    Shape:
        - source, target, output: (..., H, W); the output may leave the range of the
          source

    Raises:
        ValueError: If the sizes differ or ``mode`` is unknown.
    """
    if source.shape[-2:] != target.shape[-2:] or mode not in ('corner', 'centered'):
        raise ValueError(
            f'swap_amplitude got images of {tuple(source.shape[-2:])} and '
            f'{tuple(target.shape[-2:])} pixels and mode={mode!r}, expected equal '
            "sizes and 'corner' or 'centered'."
        )
    height, width = source.shape[-2:]
    band = math.floor(min(height, width) * beta)
    if band == 0 and mode == 'corner':
        return source.clone()
    own, other = torch.fft.fft2(source), torch.fft.fft2(target)
    inside = [_low(n, band, mode, source.device) for n in (height, width)]
    low = inside[0][:, None] & inside[1]
    amplitude = torch.where(low, other.abs(), own.abs())
    return torch.fft.ifft2(torch.polar(amplitude, own.angle())).real


def check_band(who: str, beta: float, mode: str) -> None:
    """Refuse a band that :func:`swap_amplitude` cannot use.

    Args:
        who: The part that takes the arguments, for the error.
        beta: See :func:`swap_amplitude`.
        mode: See :func:`swap_amplitude`.

    Raises:
        ValueError: If ``beta`` or ``mode`` cannot be used.
    """
    if not 0 <= beta <= 0.5 or mode not in ('corner', 'centered'):
        raise ValueError(
            f'{who} has beta={beta} and mode={mode!r}, expected a share in [0, 0.5] '
            "and 'corner' or 'centered'."
        )


def _low(length: int, band: int, mode: str, device: torch.device) -> Tensor:
    """Which entries of an unshifted spectrum lie in the band.

    Shape:
        - output: (length,) bool
    """
    index = torch.arange(length, device=device)
    frequency = torch.where(index < (length + 1) // 2, index, index - length)
    upper = band if mode == 'centered' else band - 1
    return (frequency >= -band) & (frequency <= upper)
