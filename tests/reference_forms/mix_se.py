"""What MMSFormer and StitchFusion share as published: MiT, eps 1e-5, and the fusion.

Parameters carry the official names.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmseg_xmodal.models.layers.mit import MiTVariant

from .cmnext import SegFormerDecoder
from .mit import Block, PatchEmbed, tokens_to_map


class Block5(Block):
    """The block of MiT, every LayerNorm with torch's own eps."""

    def __init__(self, dim: int, heads: int, ratio: int, drop_path: float) -> None:
        super().__init__(dim, heads, ratio, drop_path)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)


class MiT(nn.Module):
    """Holds the stages under official names.

    Args:
        size: Of the network.
        channels: Of the input.
        rates: Drop path, one per block, stage by stage.
        block: Makes a block from channels, heads, reduction and rate.
    """

    def __init__(
        self,
        size: MiTVariant,
        channels: int,
        rates: list[list[float]],
        block: Callable[..., nn.Module] = Block5,
    ) -> None:
        super().__init__()
        for i, dim in enumerate(size.embed_dims, 1):
            kernel, stride = (7, 4) if i == 1 else (3, 2)
            heads, ratio = size.num_heads[i - 1], size.sr_ratios[i - 1]
            embed = PatchEmbed(channels, dim, kernel, stride)
            blocks = nn.ModuleList(block(dim, heads, ratio, p) for p in rates[i - 1])
            self.add_module(f'patch_embed{i}', embed)
            self.add_module(f'block{i}', blocks)
            self.add_module(f'norm{i}', nn.LayerNorm(dim))
            channels = dim

    def stage(self, x: Tensor, i: int) -> Tensor:
        x, h, w = getattr(self, f'patch_embed{i}')(x)
        for block in getattr(self, f'block{i}'):
            x = block(x, h, w)
        return tokens_to_map(getattr(self, f'norm{i}')(x), h, w)


class DW(nn.Module):
    def __init__(self, dim: int, kernel: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, kernel, padding='same', groups=dim)

    def forward(self, x: Tensor, h: int, w: int) -> Tensor:
        return self.dwconv(tokens_to_map(x, h, w)).flatten(2).transpose(1, 2)


class PW(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.pwconv = nn.Conv2d(dim, dim, 1)
        self.bn = nn.BatchNorm2d(dim)

    def forward(self, x: Tensor, h: int, w: int) -> Tensor:
        x = self.bn(self.pwconv(tokens_to_map(x, h, w)))
        return x.flatten(2).transpose(1, 2)


class MixFFN(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, dim)
        self.pwconv1 = PW(dim)
        self.dwconv3, self.dwconv5, self.dwconv7 = DW(dim, 3), DW(dim, 5), DW(dim, 7)
        self.pwconv2 = PW(dim)
        self.fc2 = nn.Linear(dim, dim)

    def forward(self, x: Tensor, h: int, w: int) -> Tensor:
        x = self.pwconv1(self.fc1(x), h, w)
        x3, x5, x7 = (dw(x, h, w) for dw in (self.dwconv3, self.dwconv5, self.dwconv7))
        return self.fc2(F.gelu(self.pwconv2(x + x3 + x5 + x7, h, w)))


class ChannelAttention(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(dim, max(dim // 16, 1), bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(max(dim // 16, 1), dim, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor, h: int, w: int) -> Tensor:
        x = tokens_to_map(x, h, w)
        gate = self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return (x * gate[:, :, None, None]).flatten(2).transpose(1, 2)


class Fusion(nn.Module):
    """The fusion of all stages, in lists.

    Args:
        widths: Channels of each stage.
        count: Modalities.
    """

    def __init__(self, widths: tuple[int, ...], count: int) -> None:
        super().__init__()
        self.liner_fusion_layers = nn.ModuleList(
            nn.Linear(w * count, w) for w in widths
        )
        self.mix_ffn = nn.ModuleList(map(MixFFN, widths))
        self.channel_attns = nn.ModuleList(map(ChannelAttention, widths))

    def forward(self, maps: list[Tensor], i: int) -> Tensor:
        h, w = maps[0].shape[2:]
        both = torch.cat(maps, 1).flatten(2).transpose(1, 2)
        z = self.liner_fusion_layers[i](both)
        out = self.mix_ffn[i](z, h, w) + self.channel_attns[i](z, h, w)
        return out.transpose(1, 2).reshape(z.shape[0], -1, h, w)


class Published(nn.Module):
    """Backbone and decoder, from the stacked input to the low-resolution logits.

    Args:
        backbone: From a list of three-channel maps to four maps.
        places: For each modality its slices of the stacked input; None = three
            channels each, in order. Further channels (validity) are ignored.
        widths: Channels of the four maps.
        translate: From an official key to ours.
        channels: Of the decoder.
        num_classes: Channels of the logits.
        eps: Of the decoder's BN.
        dropout: Of the decoder.
    """

    def __init__(
        self,
        backbone: nn.Module,
        places: list[list[slice]] | None,
        widths: tuple[int, ...],
        translate: Callable[[str], str | None],
        channels: int = 512,
        num_classes: int = 25,
        eps: float = 1e-5,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.places = places
        self.translate = translate
        self.backbone = backbone
        self.decode_head = SegFormerDecoder(widths, channels, num_classes, eps, dropout)

    def load_from(self, model: nn.Module) -> None:
        """Take the weights of a segmentor of ours, strictly."""
        ours = model.state_dict()
        names = {self.translate(name): name for name in self.state_dict()}
        assert names.keys() == ours.keys(), sorted(
            map(str, names.keys() ^ ours.keys())
        )[:10]
        self.load_state_dict({names[key]: ours[key] for key in ours}, strict=True)

    def forward(self, x: Tensor) -> Tensor:
        if self.places is None:
            inputs = list(x.split(3, 1))
        else:
            inputs = [torch.cat([x[:, s] for s in places], 1) for places in self.places]
        return self.decode_head(self.backbone(inputs))


def build_published(
    model: nn.Module,
    backbone: nn.Module,
    translate: Callable[[str], str | None],
) -> Published:
    """Put a published backbone behind the input, and before the head, of ours.

    Args:
        model: ``EncoderDecoder`` with our backbone and ``CMNeXtHead``. Validity, which
            the published form does not know, must be 1 everywhere.
        backbone: The published one.
        translate: From an official key to ours.
    """
    ours, head = model.backbone, model.decode_head
    places = [
        [ours.input.layout.value_slice(name) for name in names]
        for names in ours.input.streams.values()
    ]
    published = Published(
        backbone,
        places,
        ours.embed_dims,
        translate,
        head.channels,
        head.out_channels,
        head.linear_fuse.bn.eps,
        head.dropout_ratio,
    )
    published.load_from(model)
    reference = next(model.parameters())
    return published.to(reference.device).train(model.training)


def drop_path_rates(stages: nn.ModuleList) -> list[list[float]]:
    """Rates of the blocks of our MiT, stage by stage."""
    return [[block.drop_path.rate for block in stage.blocks] for stage in stages]
