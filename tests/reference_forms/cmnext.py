"""CMNeXt as published, written plainly: maps in the usual memory order, torch's pools.

Parameters carry the official names, so that official weights load as they are; a
parity fixture shows that the numbers are the official ones. Not for use in training:
this is what ours is compared with and timed against.
"""

from __future__ import annotations

from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmseg_xmodal.models.backbones.cmnext import cmnext_variant
from mmseg_xmodal.models.converters.cmnext import cmnext_key

from .cmx import FFM, FRM, Proj
from .mit import Block, DropPath, PatchEmbed, tokens_to_map


class ConvLayerNorm(nn.Module):
    """LayerNorm over the channels of a map."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt(variance + 1e-6)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class Parallel(nn.Module):
    """One module for all modalities."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        return [self.module(x) for x in xs]


class ParallelNorm(nn.Module):
    """One norm for each modality."""

    def __init__(self, dim: int, count: int) -> None:
        super().__init__()
        for i in range(count):
            self.add_module(f'ln_{i}', ConvLayerNorm(dim))

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        return [getattr(self, f'ln_{i}')(x) for i, x in enumerate(xs)]


class ParallelEmbed(nn.Module):
    def __init__(self, width: int, dim: int, first: bool, count: int) -> None:
        super().__init__()
        kernel, stride = (7, 4) if first else (3, 2)
        self.proj = Parallel(nn.Conv2d(width, dim, kernel, stride, kernel // 2))
        self.norm = ParallelNorm(dim, count)

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        return self.norm(self.proj(xs))


class ScorePredictor(nn.Module):
    def __init__(self, dim: int, count: int) -> None:
        super().__init__()
        self.score_nets = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(dim, dim, 3, 1, 1, groups=dim),
                nn.Conv2d(dim, 1, 1),
                nn.Sigmoid(),
            )
            for _ in range(count)
        )

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        return [net(x) for net, x in zip(self.score_nets, xs, strict=True)]


class Attention(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.pools = nn.ModuleList(
            nn.AvgPool2d(k, 1, k // 2, count_include_pad=False) for k in (3, 7, 11)
        )
        self.conv4 = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        wide = self.conv0(x)
        first, second, third = (pool(wide) for pool in self.pools)
        gate = torch.sigmoid(self.conv4(wide + first + second + third))
        return gate * x + x


class MapDWConv(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 3, 1, 1, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.dwconv(x)


class MapMlp(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(dim, hidden, 1)
        self.dwconv = MapDWConv(hidden)
        self.fc2 = nn.Conv2d(hidden, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.dwconv(self.fc1(x))))


class PPX(nn.Module):
    def __init__(self, dim: int, ratio: int, drop_path: float) -> None:
        super().__init__()
        self.layer_scale_1 = nn.Parameter(torch.full((dim,), 1e-2))
        self.layer_scale_2 = nn.Parameter(torch.full((dim,), 1e-2))
        self.norm1 = nn.BatchNorm2d(dim)
        self.attn = Attention(dim)
        self.norm2 = nn.BatchNorm2d(dim)
        self.mlp = MapMlp(dim, ratio * dim)
        self.c_nets = nn.Sequential(
            nn.Conv1d(1, 1, 3, padding=1, bias=False), nn.Sigmoid()
        )
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.layer_scale_1[:, None, None]
        x = x + self.drop_path(scale * self.attn(self.norm1(x)))
        pooled = F.adaptive_avg_pool2d(x, 1).squeeze(-1).transpose(1, 2)
        gate = self.c_nets(pooled).transpose(1, 2).unsqueeze(-1)
        scale = self.layer_scale_2[:, None, None]
        return gate * x + self.drop_path(scale * self.mlp(self.norm2(x)))


class Backbone(nn.Module):
    """MiT, the extra branch, FRM and FFM under official names.

    Args:
        variant: As in our ``CMNeXt``.
        channels: Of RGB, and of the shared convolution.
        count: Number of extra modalities.
        drop_path: Rates by stage and block, of both branches.
        official: Whether the extra features are laid out anew, as official code does.
    """

    def __init__(self, variant, channels, count: int, drop_path, official=True) -> None:
        super().__init__()
        size = cmnext_variant(variant)
        self.count, self.official = count, official
        width, extra_width = channels
        self.extra_downsample_layers = nn.ModuleList()
        self.extra_score_predictor = nn.ModuleList()
        for i, dim in enumerate(size.embed_dims):
            kernel, stride = (7, 4) if i == 0 else (3, 2)
            self.add_module(
                f'patch_embed{i + 1}', PatchEmbed(width, dim, kernel, stride)
            )
            heads, ratio, rates = size.num_heads[i], size.sr_ratios[i], drop_path[i]
            blocks = nn.ModuleList(Block(dim, heads, ratio, p) for p in rates)
            for block in blocks:
                block.norm1.eps = block.norm2.eps = 1e-5
            self.add_module(f'block{i + 1}', blocks)
            self.add_module(f'norm{i + 1}', nn.LayerNorm(dim))
            width = dim
            if count == 0:
                continue
            embed = ParallelEmbed(extra_width, dim, i == 0, count)
            self.extra_downsample_layers.append(embed)
            if count > 1:
                self.extra_score_predictor.append(ScorePredictor(dim, count))
            hidden = 8 if i < 2 else 4
            blocks = nn.ModuleList(PPX(dim, hidden, p) for p in rates)
            self.add_module(f'extra_block{i + 1}', blocks)
            self.add_module(f'extra_norm{i + 1}', ConvLayerNorm(dim))
            extra_width = dim
        pairs = list(zip(size.embed_dims, size.num_heads, strict=True)) if count else []
        self.FRMs = nn.ModuleList(FRM(dim) for dim, _ in pairs)
        self.FFMs = nn.ModuleList(FFM(dim, heads) for dim, heads in pairs)

    def rgb_stage(self, x: Tensor, i: int) -> Tensor:
        x, h, w = getattr(self, f'patch_embed{i}')(x)
        for block in getattr(self, f'block{i}'):
            x = block(x, h, w)
        return tokens_to_map(getattr(self, f'norm{i}')(x), h, w)

    def select(self, xs: list[Tensor], i: int) -> Tensor:
        if self.count == 1:
            return xs[0]
        scores = self.extra_score_predictor[i - 1](xs)
        for j, score in enumerate(scores):
            xs[j] = score * xs[j] + xs[j]
        return reduce(torch.max, xs)

    def onward(self, xs: list[Tensor], merged: Tensor) -> list[Tensor]:
        if self.count == 1:
            return [merged]
        if not self.official:
            return [x + merged for x in xs]
        b, _, h, w = merged.shape
        anew = [x.reshape(b, h, w, -1).permute(0, 3, 1, 2).contiguous() for x in xs]
        return [x + merged for x in anew]

    def forward(self, rgb: Tensor, extras: list[Tensor]) -> list[Tensor]:
        outs = []
        for i in (1, 2, 3, 4):
            rgb = self.rgb_stage(rgb, i)
            if not self.count:
                outs.append(rgb)
                continue
            extras = self.extra_downsample_layers[i - 1](extras)
            merged = self.select(extras, i)
            for block in getattr(self, f'extra_block{i}'):
                merged = block(merged)
            merged = getattr(self, f'extra_norm{i}')(merged)
            rgb, merged = self.FRMs[i - 1](rgb, merged)
            outs.append(self.FFMs[i - 1](rgb, merged))
            extras = self.onward(extras, merged)
        return outs


class ConvNormReLU(nn.Module):
    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4 * dim, dim, 1, bias=False)
        self.bn = nn.BatchNorm2d(dim, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class SegFormerDecoder(nn.Module):
    """All levels to E channels at full size, concatenated, one 4E to E convolution."""

    def __init__(self, widths, dim: int, classes: int, eps: float, drop: float) -> None:
        super().__init__()
        for i, width in enumerate(widths):
            self.add_module(f'linear_c{i + 1}', Proj(width, dim))
        self.linear_fuse = ConvNormReLU(dim, eps)
        self.dropout = nn.Dropout2d(drop)
        self.linear_pred = nn.Conv2d(dim, classes, 1)

    def forward(self, feats: list[Tensor]) -> Tensor:
        size = feats[0].shape[2:]
        maps = []
        for i, x in enumerate(feats):
            out = getattr(self, f'linear_c{i + 1}').proj(x.flatten(2).transpose(1, 2))
            out = out.permute(0, 2, 1).reshape(x.shape[0], -1, *x.shape[2:])
            if i:
                out = F.interpolate(out, size, mode='bilinear', align_corners=False)
            maps.append(out)
        x = self.linear_fuse(torch.cat(maps[::-1], 1))
        return self.linear_pred(self.dropout(x))


class PublishedCMNeXt(nn.Module):
    """The whole network, from the stacked input to the low-resolution logits.

    Args:
        variant: As in our ``CMNeXt``.
        places: For each stream its slices of the stacked input, RGB first. Further
            channels (validity) are ignored.
        channels: Input channels of RGB, and of the shared convolution; an extra stream
            with one channel is replicated.
        drop_path: Rates by stage and block; None = 0.
        official: See :class:`Backbone`.
        embed_dim: Channels of the decoder.
        num_classes: Channels of the logits.
        eps: Of the decoder's BN.
        dropout: Of the decoder.
    """

    def __init__(
        self,
        variant,
        places,
        channels=(3, 3),
        drop_path=None,
        official: bool = True,
        embed_dim: int = 512,
        num_classes: int = 25,
        eps: float = 1e-5,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        size = cmnext_variant(variant)
        self.places, self.width = places, channels[1]
        none = [[0.0] * depth for depth in size.depths]
        self.backbone = Backbone(
            variant, channels, len(places) - 1, drop_path or none, official
        )
        self.decode_head = SegFormerDecoder(
            size.embed_dims, embed_dim, num_classes, eps, dropout
        )

    def load_from(self, model: nn.Module) -> None:
        """Take the weights of a segmentor of ours, strictly."""
        ours = model.state_dict()
        names = {cmnext_key(name): name for name in self.state_dict()}
        assert names.keys() == ours.keys(), sorted(names.keys() ^ ours.keys())[:10]
        self.load_state_dict({names[key]: ours[key] for key in ours}, strict=True)

    def forward(self, x: Tensor) -> Tensor:
        streams = [torch.cat([x[:, s] for s in places], 1) for places in self.places]
        extras = [
            e.repeat(1, self.width, 1, 1) if e.shape[1] != self.width else e
            for e in streams[1:]
        ]
        return self.decode_head(self.backbone(streams[0], extras))


def build_published_cmnext(model: nn.Module) -> PublishedCMNeXt:
    """Build the published form with the settings and weights of a segmentor of ours.

    Args:
        model: ``EncoderDecoder`` with ``CMNeXt`` and ``CMNeXtHead``. Validity, which
            the published form does not know, must be 1 everywhere.
    """
    backbone, head = model.backbone, model.decode_head
    layout = backbone.input.layout
    places = [
        [layout.value_slice(name) for name in names]
        for names in backbone.input.streams.values()
    ]
    extra = backbone.extra[0].embed.proj.in_channels if len(places) > 1 else 3
    published = PublishedCMNeXt(
        backbone.variant,
        places,
        (backbone.input.channels[0], extra),
        [[b.drop_path.rate for b in stage.blocks] for stage in backbone.rgb.stages],
        backbone.layout == 'official',
        head.channels,
        head.out_channels,
        head.linear_fuse.bn.eps,
        head.dropout_ratio,
    )
    published.load_from(model)
    reference = next(model.parameters())
    return published.to(reference.device).train(model.training)
