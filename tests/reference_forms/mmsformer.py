"""MMSFormer as published, written plainly: concatenation, then linear.

Parameters carry the official names; a parity fixture shows that the numbers are the
official ones. Not for use in training: this is what ours is compared with.
"""

from __future__ import annotations

from torch import Tensor, nn

from mmseg_xmodal.models.converters.mmsformer import mmsformer_key
from mmseg_xmodal.models.layers.mit import MiTVariant

from .mix_se import Fusion, MiT, Published, build_published, drop_path_rates


class MMSFormer(MiT):
    """The first encoder, the others below it, and the fusion.

    Args:
        sizes: Of the encoders.
        channels: Of their inputs.
        rates: Drop path by encoder, stage and block.
    """

    def __init__(
        self,
        sizes: list[MiTVariant],
        channels: tuple[int, ...],
        rates: list[list[list[float]]],
    ) -> None:
        super().__init__(sizes[0], channels[0], rates[0])
        self.alone = len(sizes) == 1
        if not self.alone:
            self.extra_mit = nn.ModuleList(
                MiT(*args)
                for args in zip(sizes[1:], channels[1:], rates[1:], strict=True)
            )
            self.fusion_block = Fusion(sizes[0].embed_dims, len(sizes))

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        x, *extra = xs
        outs = []
        for i in range(1, 5):
            x = self.stage(x, i)
            if self.alone:
                outs.append(x)
                continue
            extra = [m.stage(e, i) for m, e in zip(self.extra_mit, extra, strict=True)]
            outs.append(self.fusion_block([x, *extra], i - 1))
        return outs


def plain_mmsformer(sizes: list[MiTVariant], classes: int) -> Published:
    """The published form with three channels per modality, without drop path."""
    rates = [[[0.0] * depth for depth in size.depths] for size in sizes]
    backbone = MMSFormer(sizes, (3,) * len(sizes), rates)
    widths = sizes[0].embed_dims
    return Published(backbone, None, widths, mmsformer_key, num_classes=classes)


def build_published_mmsformer(model: nn.Module) -> Published:
    """Build the published form with the settings and weights of a segmentor of ours.

    Args:
        model: ``EncoderDecoder`` with ``MMSFormer``.
    """
    ours = model.backbone
    rates = [drop_path_rates(stream.stages) for stream in ours.streams]
    backbone = MMSFormer(ours.sizes, ours.input.channels, rates)
    return build_published(model, backbone, mmsformer_key)
