"""Source images in the style of the target, by their low frequencies.

Paper: FDA, Yang and Soatto, "Fourier Domain Adaptation for Semantic Segmentation", CVPR
2020, https://arxiv.org/abs/2004.05498. The official code has no licence and was not
opened; written from the paper and a description. Clean room, nothing copied.
"""

from __future__ import annotations

from mmseg_xmodal.ops.spectrum import check_band, swap_amplitude
from mmseg_xmodal.registry import MODELS

from .base import AdaptationStep, AdaptationTerm, Losses


@MODELS.register_module()
class FourierDomainAdaptation(AdaptationTerm):
    """Give the source images the low frequencies of target images.

    It changes the source before its loss, and adds none: put
    ``EntropyMinimization(kind='charbonnier', weight=0.005)`` beside it for the
    published method. Other terms see the changed source. Source image i takes the style
    of target image i modulo their number. The spectrum is that of the padded input.

    Args:
        beta: Half of the band as a share of the shorter side; published: 0.01, 0.05,
            0.09.
        mode: See :func:`swap_amplitude`.
        name: See :class:`AdaptationTerm`.

    Raises:
        ValueError: If ``beta`` or ``mode`` cannot be used.
    """

    NAME = 'fourier'

    def __init__(
        self, beta: float = 0.01, mode: str = 'corner', name: str | None = None
    ) -> None:
        super().__init__(1.0, name)
        check_band('FourierDomainAdaptation', beta, mode)
        self.beta, self.mode = beta, mode

    def prepare(self, step: AdaptationStep) -> None:
        """Change the colour of the source images."""
        images = step.source.inputs
        targets = len(step.target.samples)
        pairs = [i % targets for i in range(len(images))]
        for space in step.colours:
            target = space.read(step.target.inputs[pairs])
            colour = swap_amplitude(space.read(images), target, self.beta, self.mode)
            images = space.write(images, colour)
        step.source.inputs = images

    def forward(self, step: AdaptationStep) -> Losses:
        """No losses."""
        return {}
