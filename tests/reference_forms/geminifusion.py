"""GeminiFusion as published, written plainly: streams in turn, sequences of two keys.

Every layer runs once per stream, the cross attention once per sample through
``nn.MultiheadAttention`` on materialised keys and values, the decoder at full
resolution. Parameters carry the official names, so that official weights load as they
are; a parity fixture shows that the numbers with MiT are the official ones. Not for use
in training: this is what ours is compared with and timed against.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmseg_xmodal.models.converters.geminifusion import gemini_key
from mmseg_xmodal.models.layers.drop_path import linear_drop_path
from mmseg_xmodal.models.layers.mit import mit_variant
from mmseg_xmodal.models.layers.shared_swin import SharedSwin

from .gemini_parts import Both, CrossFusion, NormOfEach
from .gemini_swin import SwinEncoder
from .mit import DropPath, DWConv, tokens_to_map


class PatchEmbed(nn.Module):
    def __init__(self, in_channels: int, dim: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.proj = Both(nn.Conv2d(in_channels, dim, kernel, stride, kernel // 2))
        self.norm = NormOfEach(dim)

    def forward(self, xs: list[Tensor]) -> tuple[list[Tensor], int, int]:
        xs = self.proj(xs)
        h, w = xs[0].shape[2:]
        return self.norm([x.flatten(2).transpose(1, 2) for x in xs]), h, w


class Attention(CrossFusion):
    def __init__(self, dim: int, heads: int, ratio: int, cross_heads: int) -> None:
        super().__init__(dim, cross_heads)
        self.heads, self.ratio = heads, ratio
        self.q = Both(nn.Linear(dim, dim))
        self.kv = Both(nn.Linear(dim, 2 * dim))
        self.proj = Both(nn.Linear(dim, dim))
        if ratio > 1:
            self.sr = Both(nn.Conv2d(dim, dim, ratio, ratio))
            self.norm = NormOfEach(dim)

    def attend(self, xs: list[Tensor], h: int, w: int) -> list[Tensor]:
        b, n, c = xs[0].shape
        d = c // self.heads
        sources = xs
        if self.ratio > 1:
            reduced = self.sr([tokens_to_map(x, h, w) for x in xs])
            sources = self.norm([r.reshape(b, c, -1).permute(0, 2, 1) for r in reduced])
        outs = []
        for q, kv in zip(self.q(xs), self.kv(sources), strict=True):
            q = q.reshape(b, n, self.heads, d).permute(0, 2, 1, 3)
            k, v = kv.reshape(b, -1, 2, self.heads, d).permute(2, 0, 3, 1, 4)
            attn = ((q @ k.transpose(-2, -1)) * d**-0.5).softmax(-1)
            outs.append((attn @ v).transpose(1, 2).reshape(b, n, c))
        return outs

    def forward(self, xs: list[Tensor], h: int, w: int) -> list[Tensor]:
        return self.proj(self.fuse(*self.attend(xs, h, w)))


class Mlp(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = Both(nn.Linear(dim, 4 * dim))
        self.dwconv = DWConv(4 * dim)
        self.fc2 = Both(nn.Linear(4 * dim, dim))

    def forward(self, xs: list[Tensor], h: int, w: int) -> list[Tensor]:
        return self.fc2([F.gelu(self.dwconv(x, h, w)) for x in self.fc1(xs)])


class Block(nn.Module):
    def __init__(
        self, dim: int, heads: int, ratio: int, cross_heads: int, drop_path: float
    ) -> None:
        super().__init__()
        self.norm1 = NormOfEach(dim)
        self.attn = Attention(dim, heads, ratio, cross_heads)
        self.norm2 = NormOfEach(dim)
        self.mlp = Mlp(dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, xs: list[Tensor], h: int, w: int) -> list[Tensor]:
        outs = self.attn(self.norm1(xs), h, w)
        xs = [x + self.drop_path(out) for x, out in zip(xs, outs, strict=True)]
        outs = self.mlp(self.norm2(xs), h, w)
        return [x + self.drop_path(out) for x, out in zip(xs, outs, strict=True)]


class Encoder(nn.Module):
    def __init__(self, variant, cross_heads: int, drop_path: float) -> None:
        super().__init__()
        size = mit_variant(variant)
        self.widths = size.embed_dims
        rates = linear_drop_path(drop_path, size.depths)
        width = 3
        for i, dim in enumerate(size.embed_dims):
            kernel, stride = (3, 2) if i else (7, 4)
            heads, ratio = size.num_heads[i], size.sr_ratios[i]
            blocks = nn.ModuleList(
                Block(dim, heads, ratio, cross_heads, rate) for rate in rates[i]
            )
            embed = PatchEmbed(width, dim, kernel, stride)
            self.add_module(f'patch_embed{i + 1}', embed)
            self.add_module(f'block{i + 1}', blocks)
            self.add_module(f'norm{i + 1}', NormOfEach(dim))
            width = dim

    def forward(self, xs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        levels = []
        for i in range(1, 5):
            xs, h, w = getattr(self, f'patch_embed{i}')(xs)
            for block in getattr(self, f'block{i}'):
                xs = block(xs, h, w)
            xs = [tokens_to_map(x, h, w) for x in getattr(self, f'norm{i}')(xs)]
            levels.append(xs)
        return [level[0] for level in levels], [level[1] for level in levels]


class Proj(nn.Module):
    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, dim)


class ConvNorm(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4 * dim, dim, 1, bias=False)
        self.bn = nn.BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class Decoder(nn.Module):
    """All levels to E channels at full size, concatenated, one 4E to E convolution."""

    def __init__(self, widths, dim: int, classes: int, drop: float) -> None:
        super().__init__()
        for i, width in enumerate(widths):
            self.add_module(f'linear_c{i + 1}', Proj(width, dim))
        self.linear_fuse = ConvNorm(dim)
        self.dropout = nn.Dropout2d(drop)
        self.linear_pred = nn.Conv2d(dim, classes, 1)

    def forward(self, feats: list[Tensor]) -> Tensor:
        size = feats[0].shape[2:]
        maps = []
        for i in (3, 2, 1, 0):
            x = feats[i]
            out = getattr(self, f'linear_c{i + 1}').proj(x.flatten(2).transpose(1, 2))
            out = out.permute(0, 2, 1).reshape(x.shape[0], -1, *x.shape[2:])
            if i:
                out = F.interpolate(out, size, mode='bilinear', align_corners=False)
            maps.append(out)
        return self.linear_pred(self.dropout(self.linear_fuse(torch.cat(maps, 1))))


class PublishedGeminiFusion(nn.Module):
    """The whole network, from the stacked input to the low-resolution logits.

    Args:
        variant: As in our ``GeminiFusion``.
        places: For each stream its slices of the stacked input, in order. A stream of
            one channel is replicated to three.
        cross_heads: Heads of the cross attention.
        drop_path: Rate of the last block.
        embed_dim: Channels of the decoder.
        num_classes: Channels of the logits.
        dropout: Of the decoder.
    """

    def __init__(
        self,
        variant,
        places=((slice(0, 3),), (slice(3, 6),)),
        cross_heads: int = 8,
        drop_path: float = 0.0,
        embed_dim: int = 256,
        num_classes: int = 40,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.places = places
        self.alpha = nn.Parameter(torch.ones(2))
        self.encoder = self.make_encoder(variant, cross_heads, drop_path)
        widths = self.encoder.widths
        self.decoder = Decoder(widths, embed_dim, num_classes, dropout)

    def make_encoder(self, variant, cross_heads: int, drop_path: float) -> nn.Module:
        return Encoder(variant, cross_heads, drop_path)

    def our_key(self, name: str) -> str | None:
        return gemini_key(name)

    def load_from(self, model: nn.Module) -> None:
        """Take the weights of a segmentor of ours, strictly."""
        ours = model.state_dict()
        names = {self.our_key(name): name for name in self.state_dict()}
        assert names.keys() == ours.keys(), sorted(names.keys() ^ ours.keys())[:10]
        self.load_state_dict({names[key]: ours[key] for key in ours}, strict=True)

    def maps(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The maps of both streams."""
        streams = [torch.cat([x[:, s] for s in places], 1) for places in self.places]
        return self.encoder(
            [s.repeat(1, 3, 1, 1) if s.shape[1] == 1 else s for s in streams]
        )

    def outputs(self, x: Tensor) -> list[Tensor]:
        """The logits of both streams, which the loss needs."""
        return [self.decoder(maps) for maps in self.maps(x)]

    def forward(self, x: Tensor) -> Tensor:
        """The logits of the ensemble."""
        first, second = self.alpha.softmax(0)
        outs = self.outputs(x)
        return first * outs[0].detach() + second * outs[1].detach()


class PublishedGeminiSwin(PublishedGeminiFusion):
    """The same with Swin."""

    def make_encoder(self, variant, cross_heads: int, drop_path: float) -> nn.Module:
        return SwinEncoder(variant, cross_heads, drop_path)


def build_published_geminifusion(model: nn.Module) -> PublishedGeminiFusion:
    """Make the published form of a segmentor with our ``GeminiFusion``."""
    backbone, head = model.backbone, model.decode_head
    layout = backbone.input.layout
    places = [
        [layout.value_slice(name) for name in names]
        for names in backbone.input.streams.values()
    ]
    is_swin = isinstance(backbone.encoder, SharedSwin)
    form = PublishedGeminiSwin if is_swin else PublishedGeminiFusion
    published = form(
        backbone.variant,
        places,
        backbone.fusions[0][0].num_heads,
        backbone.encoder.stages[-1].blocks[-1].drop_path.rate,
        head.channels,
        head.out_channels,
        head.dropout_ratio,
    )
    assert head.linear_fuse.bn.eps == published.decoder.linear_fuse.bn.eps
    published.alpha.requires_grad_(head.alpha.requires_grad)
    published.load_from(model)
    reference = next(model.parameters())
    return published.to(reference.device).train(model.training)
