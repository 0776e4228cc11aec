"""DFormer as published, written plainly: NHWC blocks, concatenations, layer scales.

Parameters carry the official names, so that official weights load as they are; a
parity fixture shows that the numbers are the official ones. Not for use in training:
this is what ours is compared with and timed against.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmseg_xmodal.models.layers.dformer_sizes import dformer_variant

from .ham_head import published_ham_head
from .mit import DropPath


class MLP(nn.Module):
    def __init__(self, dim: int, ratio: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.fc1 = nn.Linear(dim, ratio * dim)
        self.pos = nn.Conv2d(ratio * dim, ratio * dim, 3, padding=1, groups=ratio * dim)
        self.fc2 = nn.Linear(ratio * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(self.norm(x))
        x = x + self.pos(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.fc2(F.gelu(x))


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int, window: int, last: bool) -> None:
        super().__init__()
        half = dim // 2
        self.heads, self.window, self.last = heads, window, last
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.norm_e = nn.LayerNorm(half, eps=1e-6)
        self.q = nn.Linear(dim, dim)
        self.q_cut = nn.Linear(dim, half)
        self.a = nn.Linear(dim, dim)
        self.l = nn.Linear(dim, dim)
        self.conv = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.e_conv = nn.Conv2d(half, half, 7, padding=3, groups=half)
        self.e_fore = nn.Linear(half, half)
        self.e_back = nn.Linear(half, half)
        width = 2 * dim if window else dim + half
        self.proj = nn.Linear(width, dim)
        if not last:
            self.proj_e = nn.Linear(width, half)
        if window:
            self.kv = nn.Linear(dim, dim)
            self.short_cut_linear = nn.Linear(dim + half, half)
            self.pool = nn.AdaptiveAvgPool2d(window)

    def pooled(self, x: Tensor, e: Tensor, t: Tensor) -> Tensor:
        b, _, h, w = t.shape
        d = x.shape[-1] // self.heads // 2
        kv = self.kv(t.permute(0, 2, 3, 1)).reshape(b, h * w, 2, self.heads, d)
        k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)
        both = torch.cat([x, e], 3).permute(0, 3, 1, 2)
        m = self.short_cut_linear(self.pool(both).permute(0, 2, 3, 1))
        m = m.reshape(b, -1, self.heads, d).permute(0, 2, 1, 3)
        attn = ((m * d**-0.5) @ k.transpose(-2, -1)).softmax(-1) @ v
        attn = attn.reshape(b, self.heads, self.window, self.window, d)
        attn = attn.permute(0, 1, 4, 2, 3).reshape(b, -1, self.window, self.window)
        attn = F.interpolate(attn, (h, w), mode='bilinear', align_corners=False)
        return attn.permute(0, 2, 3, 1)

    def forward(self, x: Tensor, e: Tensor) -> tuple[Tensor, Tensor | None]:
        x, e = self.norm(x), self.norm_e(e)
        q, cut = self.q(x), self.q_cut(x)
        t = F.gelu(self.l(x).permute(0, 3, 1, 2))
        a = self.a(self.conv(t).permute(0, 2, 3, 1))
        parts = [q * a]
        if self.window:
            parts.append(self.pooled(x, e, t))
        e = self.e_conv(self.e_fore(e).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        parts.append(cut * self.e_back(e))
        features = torch.cat(parts, 3)
        return self.proj(features), None if self.last else self.proj_e(features)


class Block(nn.Module):
    def __init__(self, dim, heads, window, ratio, drop_path, last) -> None:
        super().__init__()
        half = dim // 2
        self.last = last
        self.attn = Attention(dim, heads, window, last)
        self.mlp = MLP(dim, ratio)
        self.layer_scale_1 = nn.Parameter(torch.ones(dim))
        self.layer_scale_2 = nn.Parameter(torch.ones(dim))
        if not last:
            self.mlp_e2 = MLP(half, ratio)
            self.layer_scale_1_e = nn.Parameter(torch.ones(half))
            self.layer_scale_2_e = nn.Parameter(torch.ones(half))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        dx, de = self.attn(x, e)
        x = x + self.drop_path(self.layer_scale_1 * dx)
        x = x + self.drop_path(self.layer_scale_2 * self.mlp(x))
        if not self.last:
            e = e + self.drop_path(self.layer_scale_1_e * de)
            e = e + self.drop_path(self.layer_scale_2_e * self.mlp_e2(e))
        return x, e


def downsamplers(channels: int, dims: list[int]) -> nn.ModuleList:
    stem = nn.Sequential(
        nn.Conv2d(channels, dims[0] // 2, 3, 2, 1),
        nn.BatchNorm2d(dims[0] // 2),
        nn.GELU(),
        nn.Conv2d(dims[0] // 2, dims[0], 3, 2, 1),
        nn.BatchNorm2d(dims[0]),
    )
    rest = [
        nn.Sequential(nn.BatchNorm2d(a), nn.Conv2d(a, b, 3, 2, 1))
        for a, b in zip(dims, dims[1:], strict=False)
    ]
    return nn.ModuleList([stem, *rest])


class Encoder(nn.Module):
    """``rates[stage][block]`` are the rates of the drop paths."""

    def __init__(self, variant, channels, rates) -> None:
        super().__init__()
        size = dformer_variant(variant)
        dims = list(size.embed_dims)
        self.downsample_layers = downsamplers(channels[0], dims)
        self.downsample_layers_e = downsamplers(channels[1], [d // 2 for d in dims])
        self.stages = nn.ModuleList()
        for i, dim in enumerate(dims):
            blocks = []
            for j, rate in enumerate(rates[i]):
                last = i == len(dims) - 1 and j == len(rates[i]) - 1
                heads, window = size.num_heads[i], size.windows[i]
                ratio = size.mlp_ratios[i]
                blocks.append(Block(dim, heads, window, ratio, rate, last))
            self.stages.append(nn.ModuleList(blocks))

    def forward(self, x: Tensor, e: Tensor) -> list[Tensor]:
        outs = []
        for down, down_e, blocks in zip(
            self.downsample_layers, self.downsample_layers_e, self.stages, strict=True
        ):
            x, e = down(x).permute(0, 2, 3, 1), down_e(e).permute(0, 2, 3, 1)
            for block in blocks:
                x, e = block(x, e)
            x, e = x.permute(0, 3, 1, 2), e.permute(0, 3, 1, 2)
            outs.append(x)
        return outs


class PublishedDFormer(nn.Module):
    """The whole network, from the stacked input to the low-resolution logits.

    Args:
        variant: As in our ``DFormer``.
        channels: Input channels of the two streams.
        places: For each stream its slices of the stacked input, in order. Further
            channels (validity) are ignored.
        rates: Drop path rates by stage and block.
        head: The head of ours whose published form is wanted.
    """

    def __init__(self, variant, channels, places, rates, head) -> None:
        super().__init__()
        self.places = places
        self.backbone = Encoder(variant, channels, rates)
        self.decode_head = published_ham_head(head)

    def load_from(self, model: nn.Module) -> None:
        """Take the weights of a segmentor of ours, strictly."""
        self.load_state_dict(model.state_dict(), strict=True)

    def forward(self, x: Tensor) -> Tensor:
        streams = [torch.cat([x[:, s] for s in places], 1) for places in self.places]
        return self.decode_head(self.backbone(*streams))


def build_published_dformer(model: nn.Module) -> PublishedDFormer:
    """Build the published form of a DFormer segmentor of ours, with its weights."""
    backbone = model.backbone
    layout = backbone.input.layout
    places = [
        [layout.value_slice(name) for name in names]
        for names in backbone.input.streams.values()
    ]
    rates = [[block.drop_path.rate for block in stage] for stage in backbone.stages]
    published = PublishedDFormer(
        backbone.variant, backbone.input.channels, places, rates, model.decode_head
    )
    published.load_from(model)
    reference = next(model.parameters())
    return published.to(reference.device).train(model.training)
