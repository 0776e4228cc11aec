"""StitchFusion as published, written plainly: one modality, one message at a time.

Parameters carry the official names; a parity fixture shows that the numbers are the
official ones. Not for use in training: this is what ours is compared with.
"""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from mmseg_xmodal.models.converters.stitchfusion import stitchfusion_key
from mmseg_xmodal.models.layers.mit import MiTVariant, mit_variant

from .mit import Attention, DropPath, Mlp, tokens_to_map
from .mix_se import Fusion, MiT, Published, build_published, drop_path_rates


class Adapter(nn.Module):
    def __init__(self, dim: int, dropout: float, rank: int = 8) -> None:
        super().__init__()
        self.adapter_down = nn.Linear(dim, rank)
        self.adapter_mid = nn.Linear(rank, rank)
        self.adapter_up = nn.Linear(rank, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.adapter_mid(self.adapter_down(x)))
        return self.adapter_up(self.dropout(x))


def _names(i: int, j: int, sharing: str) -> tuple[str, str]:
    """Official names of the adapters from one modality to another, from 0."""
    if sharing == 'all':
        return 'adap_t', 'adap2_t'
    if sharing == 'pair':
        i, j = min(i, j), max(i, j)
    return f'adap_t_att{i + 1}{j + 1}', f'adap_t_mlp{i + 1}{j + 1}'


class StitchBlock(nn.Module):
    """MiT block for all modalities. The lists alias: a sender sends its updated state.

    Args:
        dim, heads, ratio, drop_path: As in a MiT block.
        count: Modalities.
        sharing: As in our ``StitchFusion``.
        dropout: In the adapters.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        ratio: int,
        drop_path: float,
        count: int,
        sharing: str,
        dropout: float,
    ) -> None:
        super().__init__()
        self.sharing = sharing
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, heads, ratio)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim)
        for i in range(count):
            for j in range(count):
                for name in _names(i, j, sharing):
                    if i != j and not hasattr(self, name):
                        self.add_module(name, Adapter(dim, dropout))

    def exchange(self, xs: list[Tensor], norm: nn.Module, place: int) -> None:
        for i in range(len(xs)):
            for j in range(len(xs)):
                if i != j:
                    adapter = getattr(self, _names(i, j, self.sharing)[place])
                    xs[j] = xs[j] + self.drop_path(adapter(norm(xs[i])))

    def forward(self, xs: list[Tensor], h: int, w: int) -> list[Tensor]:
        xs = [x.clone() for x in xs]
        for i, x in enumerate(xs):
            xs[i] = x + self.drop_path(self.attn(self.norm1(x), h, w))
        self.exchange(xs, self.norm1, 0)
        for i, x in enumerate(xs):
            xs[i] = x + self.drop_path(self.mlp(self.norm2(x), h, w))
        self.exchange(xs, self.norm2, 1)
        return xs


class StitchFusion(MiT):
    """One encoder for all modalities, and the fusion.

    Args:
        size: Of the encoder.
        count: Modalities.
        rates: Drop path by stage and block.
        sharing: As in our ``StitchFusion``.
        dropout: In the adapters.
    """

    def __init__(
        self,
        size: MiTVariant,
        count: int,
        rates: list[list[float]],
        sharing: str,
        dropout: float,
    ) -> None:
        block = partial(StitchBlock, count=count, sharing=sharing, dropout=dropout)
        super().__init__(size, 3, rates, block)
        self.feature_cross = Fusion(size.embed_dims, count)

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        # One channel is read as three equal ones, as the official loaders do.
        xs = [x.repeat(1, 3 // x.shape[1], 1, 1) for x in xs]
        outs = []
        for i in range(1, 5):
            embedded = [getattr(self, f'patch_embed{i}')(x) for x in xs]
            h, w = embedded[0][1:]
            tokens = [x for x, _, _ in embedded]
            for block in getattr(self, f'block{i}'):
                tokens = block(tokens, h, w)
            norm = getattr(self, f'norm{i}')
            xs = [tokens_to_map(norm(x), h, w) for x in tokens]
            outs.append(self.feature_cross(xs, i - 1))
        return outs


def plain_stitchfusion(variant: str, count: int, classes: int) -> Published:
    """The published form with three channels per modality, without drop path."""
    size = mit_variant(variant)
    rates = [[0.0] * depth for depth in size.depths]
    backbone = StitchFusion(size, count, rates, 'pair', 0.0)
    widths = size.embed_dims
    return Published(backbone, None, widths, stitchfusion_key, num_classes=classes)


def build_published_stitchfusion(model: nn.Module) -> Published:
    """Build the published form with the settings and weights of a segmentor of ours.

    Args:
        model: ``EncoderDecoder`` with ``StitchFusion``, adapters of width 8.
    """
    ours = model.backbone
    adapters = ours.adapters[0][0]['attn']
    backbone = StitchFusion(
        mit_variant(ours.variant),
        len(ours.input.names),
        drop_path_rates(ours.trunk.stages),
        ours.sharing,
        adapters.dropout.p,
    )
    return build_published(model, backbone, stitchfusion_key)
