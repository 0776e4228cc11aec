"""CMX with Swin streams as published, written plainly; under the official names."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmseg_xmodal.models.converters.cmx_swin import cmx_swin_key
from mmseg_xmodal.models.layers.swin_sizes import swin_variant

from .cmx import FFM, FRM, MLPDecoder
from .mit import tokens_to_map
from .swin import Layer, PatchEmbed, PatchMerging


class DualSwin(nn.Module):
    """Two Swin, FRM and FFM; ``rates`` are the drop path rates by stage and block."""

    def __init__(self, variant, channels, rates) -> None:
        super().__init__()
        size = swin_variant(variant)
        dims = size.embed_dims
        for suffix, width in zip(('', '_d'), channels, strict=True):
            self.add_module(f'patch_embed{suffix}', PatchEmbed(width, dims[0]))
            layers = nn.ModuleList(
                Layer(dim, heads, size.window, list(rate))
                for dim, heads, rate in zip(dims, size.num_heads, rates, strict=True)
            )
            self.add_module(f'layers{suffix}', layers)
            merging = nn.ModuleList(PatchMerging(dim) for dim in dims[:-1])
            self.add_module(f'downsamples{suffix}', merging)
            for i, dim in enumerate(dims):
                self.add_module(f'norm{suffix}{i}', nn.LayerNorm(dim))
        self.FRMs = nn.ModuleList(FRM(dim) for dim in dims)
        self.FFMs = nn.ModuleList(
            FFM(dim, heads) for dim, heads in zip(dims, size.num_heads, strict=True)
        )

    def forward(self, r: Tensor, x: Tensor) -> list[Tensor]:
        r, h, w = self.patch_embed(r)
        x, h, w = self.patch_embed_d(x)
        outs = []
        for i, (frm, ffm) in enumerate(zip(self.FRMs, self.FFMs, strict=True)):
            r = tokens_to_map(self.layers[i](r, h, w), h, w)
            x = tokens_to_map(self.layers_d[i](x, h, w), h, w)
            r, x = (m.flatten(2).transpose(1, 2) for m in frm(r, x))
            normed = getattr(self, f'norm{i}')(r), getattr(self, f'norm_d{i}')(x)
            outs.append(ffm(*(tokens_to_map(m, h, w) for m in normed)))
            if i < len(self.FRMs) - 1:
                r = self.downsamples[i](r.contiguous(), h, w)[0]
                x, h, w = self.downsamples_d[i](x.contiguous(), h, w)
        return outs


class PublishedCMXSwin(nn.Module):
    """The whole network, from the stacked input to the low-resolution logits.

    Args:
        variant: As in our ``CMXSwin``.
        channels: Input channels of the two streams.
        places: For each stream its slices of the stacked input, in order; None = one
            after the other. Further channels (validity) are ignored.
        rates: Drop path rates by stage and block; None = none.
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
        rates=None,
        embed_dim: int = 512,
        num_classes: int = 40,
        eps: float = 1e-5,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        size = swin_variant(variant)
        first, second = channels
        self.places = places or [[slice(first)], [slice(first, first + second)]]
        none = [[0.0] * depth for depth in size.depths]
        self.backbone = DualSwin(variant, channels, rates or none)
        self.decode_head = MLPDecoder(
            size.embed_dims, embed_dim, num_classes, eps, dropout
        )

    def load_from(self, model: nn.Module) -> None:
        """Take the weights of a segmentor of ours, strictly."""
        ours = model.state_dict()
        names = {cmx_swin_key(name): name for name in self.state_dict()}
        assert names.keys() == ours.keys(), sorted(names.keys() ^ ours.keys())[:10]
        self.load_state_dict({names[key]: ours[key] for key in ours}, strict=True)

    def forward(self, x: Tensor) -> Tensor:
        streams = [torch.cat([x[:, s] for s in places], 1) for places in self.places]
        return self.decode_head(self.backbone(*streams))


def build_published_cmx_swin(model: nn.Module) -> PublishedCMXSwin:
    """Build the published form with the settings and weights of a segmentor of ours.

    Args:
        model: ``EncoderDecoder`` with ``CMXSwin`` and ``CMXHead``. Validity, which the
            published form does not know, must be 1 everywhere.
    """
    backbone, head = model.backbone, model.decode_head
    layout = backbone.input.layout
    places = [
        [layout.value_slice(name) for name in names]
        for names in backbone.input.streams.values()
    ]
    rates = [
        [block.drop_path.rate for block in stage.blocks]
        for stage in backbone.streams[0].stages
    ]
    published = PublishedCMXSwin(
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
