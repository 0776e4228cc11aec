"""CMX as published, written plainly: explicit softmax, decoder at full resolution.

Parameters carry the official names, so that official weights load as they are; a
parity fixture shows that the numbers are the official ones. Not for use in training:
this is what ours is compared with and timed against.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmseg_xmodal.models.converters.cmx import cmx_key
from mmseg_xmodal.models.layers.mit import mit_variant

from .mit import Block, PatchEmbed, tokens_to_map


class Branch(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.mlp = nn.Sequential(*layers)


class FRM(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        relu, sigmoid = partial(nn.ReLU, inplace=True), nn.Sigmoid
        self.channel_weights = Branch(
            nn.Linear(4 * c, 4 * c), relu(), nn.Linear(4 * c, 2 * c), sigmoid()
        )
        self.spatial_weights = Branch(
            nn.Conv2d(2 * c, c, 1), relu(), nn.Conv2d(c, 2, 1), sigmoid()
        )

    def forward(self, r: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        both = torch.cat([r, x], 1)
        mean = F.adaptive_avg_pool2d(both, 1).flatten(1)
        largest = F.adaptive_max_pool2d(both, 1).flatten(1)
        channel = self.channel_weights.mlp(torch.cat([mean, largest], 1))
        channel = channel.reshape(r.shape[0], 2, r.shape[1], 1, 1)
        spatial = self.spatial_weights.mlp(both).unsqueeze(2)
        out_r = r + 0.5 * channel[:, 1] * x + 0.5 * spatial[:, 1] * x
        out_x = x + 0.5 * channel[:, 0] * r + 0.5 * spatial[:, 0] * r
        return out_r, out_x


class CrossAttention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.kv1 = nn.Linear(dim, 2 * dim, bias=False)
        self.kv2 = nn.Linear(dim, 2 * dim, bias=False)

    def context(self, u: Tensor, kv: nn.Linear) -> Tensor:
        b, n, c = u.shape
        d = c // self.heads
        k, v = kv(u).reshape(b, n, 2, self.heads, d).permute(2, 0, 3, 1, 4)
        return ((k.transpose(-2, -1) @ v) * d**-0.5).softmax(-2)

    def forward(self, u1: Tensor, u2: Tensor) -> tuple[Tensor, Tensor]:
        b, n, c = u1.shape
        g1, g2 = self.context(u1, self.kv1), self.context(u2, self.kv2)
        outs = []
        for u, g in ((u1, g2), (u2, g1)):
            q = u.reshape(b, n, self.heads, -1).permute(0, 2, 1, 3).contiguous()
            outs.append((q @ g).permute(0, 2, 1, 3).reshape(b, n, c))
        return outs[0], outs[1]


class CrossPath(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.channel_proj1 = nn.Linear(dim, 2 * dim)
        self.channel_proj2 = nn.Linear(dim, 2 * dim)
        self.cross_attn = CrossAttention(dim, heads)
        self.end_proj1 = nn.Linear(2 * dim, dim)
        self.end_proj2 = nn.Linear(2 * dim, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, z1: Tensor, z2: Tensor) -> tuple[Tensor, Tensor]:
        y1, u1 = F.relu(self.channel_proj1(z1)).chunk(2, -1)
        y2, u2 = F.relu(self.channel_proj2(z2)).chunk(2, -1)
        v1, v2 = self.cross_attn(u1, u2)
        out1 = self.norm1(z1 + self.end_proj1(torch.cat([y1, v1], -1)))
        out2 = self.norm2(z2 + self.end_proj2(torch.cat([y2, v2], -1)))
        return out1, out2


class ChannelEmbed(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.residual = nn.Conv2d(2 * dim, dim, 1, bias=False)
        self.channel_embed = nn.Sequential(
            nn.Conv2d(2 * dim, dim, 1),
            nn.Conv2d(dim, dim, 3, padding=1, groups=dim),
            nn.ReLU(inplace=True),
            nn.Conv2d(dim, dim, 1),
            nn.BatchNorm2d(dim),
        )
        self.norm = nn.BatchNorm2d(dim)

    def forward(self, x: Tensor, h: int, w: int) -> Tensor:
        x = tokens_to_map(x, h, w)
        return self.norm(self.residual(x) + self.channel_embed(x))


class FFM(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.cross = CrossPath(dim, heads)
        self.channel_emb = ChannelEmbed(dim)

    def forward(self, r: Tensor, x: Tensor) -> Tensor:
        h, w = r.shape[2:]
        out = self.cross(r.flatten(2).transpose(1, 2), x.flatten(2).transpose(1, 2))
        return self.channel_emb(torch.cat(out, -1), h, w)


class DualMiT(nn.Module):
    """Two MiT, FRM and FFM under official names.

    ``drop_paths[stream][stage][block]`` are the rates.
    """

    def __init__(self, variant, channels, drop_paths) -> None:
        super().__init__()
        size = mit_variant(variant)
        for prefix, width, rates in zip(
            ('', 'extra_'), channels, drop_paths, strict=True
        ):
            for i, dim in enumerate(size.embed_dims):
                kernel, stride = (7, 4) if i == 0 else (3, 2)
                embed = PatchEmbed(width, dim, kernel, stride)
                heads, ratio = size.num_heads[i], size.sr_ratios[i]
                blocks = nn.ModuleList(Block(dim, heads, ratio, p) for p in rates[i])
                self.add_module(f'{prefix}patch_embed{i + 1}', embed)
                self.add_module(f'{prefix}block{i + 1}', blocks)
                norm = nn.LayerNorm(dim, eps=1e-6)
                self.add_module(f'{prefix}norm{i + 1}', norm)
                width = dim
        self.FRMs = nn.ModuleList(FRM(dim) for dim in size.embed_dims)
        self.FFMs = nn.ModuleList(
            FFM(dim, heads)
            for dim, heads in zip(size.embed_dims, size.num_heads, strict=True)
        )

    def stage(self, x: Tensor, i: int, prefix: str) -> Tensor:
        x, h, w = getattr(self, f'{prefix}patch_embed{i + 1}')(x)
        for block in getattr(self, f'{prefix}block{i + 1}'):
            x = block(x, h, w)
        return tokens_to_map(getattr(self, f'{prefix}norm{i + 1}')(x), h, w)

    def forward(self, r: Tensor, x: Tensor) -> list[Tensor]:
        outs = []
        for i, (frm, ffm) in enumerate(zip(self.FRMs, self.FFMs, strict=True)):
            r, x = frm(self.stage(r, i, ''), self.stage(x, i, 'extra_'))
            outs.append(ffm(r, x))
        return outs


class Proj(nn.Module):
    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, dim)


class MLPDecoder(nn.Module):
    """All levels to E channels at full size, concatenated, one 4E to E convolution."""

    def __init__(self, widths, dim: int, classes: int, eps: float, drop: float) -> None:
        super().__init__()
        for i, width in enumerate(widths):
            self.add_module(f'linear_c{i + 1}', Proj(width, dim))
        self.linear_fuse = nn.Sequential(
            nn.Conv2d(4 * dim, dim, 1),
            nn.BatchNorm2d(dim, eps=eps),
            nn.ReLU(inplace=True),
        )
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
        x = self.linear_fuse(torch.cat(maps, 1))
        return self.linear_pred(self.dropout(x))


class PublishedCMX(nn.Module):
    """The whole network, from the stacked input to the low-resolution logits.

    Args:
        variant: As in our ``CMX``.
        channels: Input channels of the two streams.
        places: For each stream its slices of the stacked input, in order; None = one
            after the other. Further channels (validity) are ignored.
        drop_paths: Rates by stream, stage and block.
        embed_dim: Channels of the decoder.
        num_classes: Channels of the logits.
        eps: Of the decoder's BN.
        dropout: Of the decoder.
    """

    def __init__(
        self,
        variant,
        channels=(3, 3),
        places=None,
        drop_paths=None,
        embed_dim: int = 512,
        num_classes: int = 40,
        eps: float = 1e-5,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        size = mit_variant(variant)
        first, second = channels
        self.places = places or [[slice(first)], [slice(first, first + second)]]
        none = [[[0.0] * depth for depth in size.depths]] * 2
        self.backbone = DualMiT(variant, channels, drop_paths or none)
        self.decode_head = MLPDecoder(
            size.embed_dims, embed_dim, num_classes, eps, dropout
        )

    def load_from(self, model: nn.Module) -> None:
        """Take the weights of a segmentor of ours, strictly."""
        ours = model.state_dict()
        names = {cmx_key(name): name for name in self.state_dict()}
        assert names.keys() == ours.keys(), sorted(names.keys() ^ ours.keys())[:10]
        self.load_state_dict({names[key]: ours[key] for key in ours}, strict=True)

    def forward(self, x: Tensor) -> Tensor:
        streams = [torch.cat([x[:, s] for s in places], 1) for places in self.places]
        return self.decode_head(self.backbone(*streams))


def build_published_cmx(model: nn.Module) -> PublishedCMX:
    """Build the published form with the settings and weights of a segmentor of ours.

    Args:
        model: ``EncoderDecoder`` with ``CMX`` and ``CMXHead``. Validity, which the
            published form does not know, must be 1 everywhere.
    """
    backbone, head = model.backbone, model.decode_head
    layout = backbone.input.layout
    places = [
        [layout.value_slice(name) for name in names]
        for names in backbone.input.streams.values()
    ]
    rates = [
        [[b.drop_path.rate for b in stage.blocks] for stage in stream.stages]
        for stream in backbone.streams
    ]
    published = PublishedCMX(
        backbone.variant,
        backbone.input.channels,
        places,
        rates,
        head.channels,
        head.out_channels,
        head.linear_fuse[1].eps,
        head.dropout_ratio,
    )
    published.load_from(model)
    reference = next(model.parameters())
    return published.to(reference.device).train(model.training)
