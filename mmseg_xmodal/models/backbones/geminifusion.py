"""GeminiFusion: one encoder for two modalities, which meet at each pixel of each block.

Paper: GeminiFusion: Efficient Pixel-wise Multimodal Fusion for Vision Transformer,
2024, https://arxiv.org/abs/2406.01210. Official code:
https://github.com/JiaDingCN/GeminiFusion (MIT; its MiT file, and the ImageNet MiT
weights from which it starts, are under NVIDIA's non-commercial licence). Written from
the description, nothing is copied.

Both streams go through the same MiT (only the LayerNorms are their own) or the same
Swin Transformer (only the LayerNorms of the patch embedding and of the output are their
own). In every block each pixel attends to itself and to its partner in the other
stream.

Differences: a stream may have one channel (it counts as that channel three times),
pixels that are invalid in one stream do not speak to the other, and the streams run
as one batch. With MiT the numbers are those of the official code. With Swin there is no
recorded number: where the fusion stands (between window attention and the first
residual), the LayerNorms, their eps and the names are those of the official code. Its
loader of ImageNet Swin weights knows no name of the patch embedding's norms, which so
start at weight 1 and bias 0; here both streams' start from the ImageNet ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmseg_xmodal.registry import MODELS
from mmseg_xmodal.structures import ModalityLayout

from ..converters.initialiser import initialise_streams
from ..converters.shared_mit import convert_shared_mit
from ..converters.shared_swin import convert_shared_swin
from ..fusion.pixel_pair import PixelPairFusion
from ..layers.mit import MIT_VARIANTS, MiTVariant
from ..layers.shared_mit import SharedMixTransformer, Size
from ..layers.shared_swin import SharedSwin
from ..layers.streams import StreamInput
from ..layers.swin_sizes import SWIN_VARIANTS, SwinVariant
from ..layers.tokens import to_map, to_tokens
from .base import StreamBackbone


@MODELS.register_module()
class GeminiFusion(StreamBackbone):
    """Two streams through one encoder, with pixel-wise fusion in every block.

    A map of the output holds both streams, the first one's channels first: mmseg's
    heads and necks read it as it is, :class:`GeminiHead` takes the streams apart.

    Args:
        modalities: The `modalities` dict of the config.
        variant: ``'mit_b0'`` to ``'mit_b5'``, ``'swin_t'`` and further names of
            :data:`SWIN_VARIANTS`, or fields of :class:`MiTVariant` or
            :class:`SwinVariant`.
        streams: Stream name to its modalities; None = one stream per modality. Each
            of the two has 3 channels or 1.
        num_heads: Heads of the fusion, at every stage.
        drop_path_rate: Of the last block.
        placeholder: What stands at invalid pixels, see :class:`StreamInput`.
        pretrained: ImageNet weights of the encoder: a path, or
            ``dict(checkpoint=...)``. The LayerNorms of both streams start from the
            same ones.
        init_cfg: As in mmengine; excludes ``pretrained``.

    Shape:
        - input: (B, C, H, W), see :meth:`ModalityLayout.split`.
        - output: four maps (B, 2 * embed_dims[i], H / 4 / 2**i, W / 4 / 2**i), rounded
          up.

    Raises:
        ValueError: If the variant or the streams do not fit.
    """

    def __init__(
        self,
        modalities: ModalityLayout | Mapping[str, Mapping[str, Any]],
        variant: str | MiTVariant | SwinVariant | Mapping[str, Any] = 'mit_b3',
        streams: Mapping[str, Sequence[str]] | None = None,
        num_heads: int = 8,
        drop_path_rate: float = 0.4,
        placeholder: str | None = None,
        pretrained: str | Mapping[str, Any] | None = None,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(modalities, streams, placeholder, pretrained, init_cfg)
        self.variant = variant
        _check_streams(self.input)
        self.encoder: Any = _encoder(variant, drop_path_rate)
        self.embed_dims = self.encoder.embed_dims
        self.fusions = nn.ModuleList(
            nn.ModuleList(PixelPairFusion(dim, num_heads) for _ in range(depth))
            for dim, depth in zip(self.embed_dims, self.encoder.depths, strict=True)
        )

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of the output maps, both streams together."""
        return tuple(2 * dim for dim in self.embed_dims)

    def init_weights(self) -> None:
        """The encoder's initialisation, then the pretrained weights, if any."""
        super().init_weights()
        if self.pretrained is not None:
            is_swin = _is_swin(self.variant)
            self.init_report = initialise_streams(
                {'+'.join(self.input.names): self.encoder},
                self.pretrained,
                convert=convert_shared_swin if is_swin else convert_shared_mit,
            )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of both streams, concatenated, of every stage."""
        parts, valid = self.input(x)
        shares: dict[Size, Tensor] = {}

        def exchange(
            level: int, block: int, tokens: Tensor, size: Size, proj: nn.Module | None
        ) -> Tensor:
            if valid is not None and size not in shares:
                pooled = [F.adaptive_avg_pool2d(v, size).view(-1, 1) for v in valid]
                shares[size] = torch.stack(pooled).to(tokens.dtype)
            both = tokens.reshape(2, -1, tokens.shape[2])
            fusion: Any = self.fusions[level]
            out = fusion[block].exchange(both, shares.get(size), proj)
            return out.view(tokens.shape)

        outs = []
        for first, second in self.encoder(parts, exchange):
            size = (first.shape[2], first.shape[3])
            both = torch.cat([to_tokens(first), to_tokens(second)], 2)
            outs.append(to_map(both, size))
        return tuple(outs)


def _is_swin(variant: object) -> bool:
    if isinstance(variant, Mapping):
        return 'embed_dim' in variant
    return isinstance(variant, SwinVariant) or variant in SWIN_VARIANTS


def _encoder(variant: Any, drop_path_rate: float) -> SharedMixTransformer | SharedSwin:
    if _is_swin(variant):
        return SharedSwin(variant, drop_path_rate=drop_path_rate)
    if isinstance(variant, str) and variant not in MIT_VARIANTS:
        raise ValueError(
            f'variant={variant!r}, expected one of {[*MIT_VARIANTS, *SWIN_VARIANTS]}. '
            'Change `variant` of the backbone.'
        )
    return SharedMixTransformer(variant, drop_path_rate=drop_path_rate)


def _check_streams(inputs: StreamInput) -> None:
    if len(inputs.names) != 2:
        raise ValueError(
            f'GeminiFusion has exactly 2 streams, got {len(inputs.names)}: '
            f"{list(inputs.names)}. Choose two with streams=dict(rgb=['rgb'], "
            "depth=['depth']) in the backbone, or use mmseg_xmodal.CMNeXt."
        )
    for name, channels in zip(inputs.names, inputs.channels, strict=True):
        if channels not in (1, 3):
            raise ValueError(
                f'GeminiFusion reads {channels} channels in stream {name!r} '
                f'({inputs.describe(name)}), expected 3 or 1: both streams share the '
                'first convolution. Change `streams` of the backbone, or use '
                'mmseg_xmodal.CMX, whose streams have weights of their own.'
            )
