"""Says from which domain a prediction comes.

The fully convolutional discriminator of AdaptSegNet, Tsai et al., "Learning to Adapt
Structured Output Space for Semantic Segmentation", CVPR 2018,
https://arxiv.org/abs/1802.10349, which ADVENT uses too. The official code of the former
is for non-commercial use and was not opened: written from a description. Clean room,
nothing copied.
"""

from __future__ import annotations

from torch import Tensor, nn

LAYERS = 5


class OutputDiscriminator(nn.Module):
    """Five 4 x 4 convolutions of stride 2, with leaky ReLUs (0.2) between them.

    Args:
        in_channels: Classes of the prediction.
        channels: Outputs of the first convolution; the next three have 2, 4 and 8 times
            as many, the last has one.

    Shape:
        - input: (B, in_channels, H, W), H and W at least 32
        - output: logits (B, 1, H // 32, W // 32)

    Raises:
        ValueError: If an input is smaller.
    """

    def __init__(self, in_channels: int, channels: int = 64) -> None:
        super().__init__()
        widths = [in_channels, *(channels * 2**i for i in range(LAYERS - 1)), 1]
        layers: list[nn.Module] = []
        for before, after in zip(widths[:-1], widths[1:], strict=True):
            layers += [nn.Conv2d(before, after, 4, stride=2, padding=1)]
            layers += [nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        """Logit of the second domain for each place."""
        least = 2**LAYERS
        if min(x.shape[-2:]) < least:
            raise ValueError(
                f'The discriminator got a prediction of {tuple(x.shape[-2:])} pixels, '
                f'expected at least {least} along each side, which it halves {LAYERS} '
                'times. Use larger crops.'
            )
        return self.layers(x)
