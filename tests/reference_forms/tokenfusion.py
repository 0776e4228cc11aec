"""TokenFusion as its paper says, written plainly: streams in turn, explicit softmax.

No fixture of official numbers proves it (the official code states no licence and was
not opened): it is what our batched form is compared with and timed against.
"""

from __future__ import annotations

import re

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmseg_xmodal.models.layers.drop_path import linear_drop_path
from mmseg_xmodal.models.layers.mit import mit_variant

from .gemini_parts import Both, NormOfEach
from .geminifusion import Attention as GeminiAttention
from .geminifusion import Decoder, Mlp, PatchEmbed
from .mit import DropPath, tokens_to_map


class Attention(nn.Module):
    """That of the shared MiT, without what GeminiFusion puts in."""

    attend = GeminiAttention.attend

    def __init__(self, dim: int, heads: int, ratio: int) -> None:
        super().__init__()
        self.heads, self.ratio = heads, ratio
        self.q = Both(nn.Linear(dim, dim))
        self.kv = Both(nn.Linear(dim, 2 * dim))
        self.proj = Both(nn.Linear(dim, dim))
        if ratio > 1:
            self.sr = Both(nn.Conv2d(dim, dim, ratio, ratio))
            self.norm = NormOfEach(dim)

    def forward(self, xs: list[Tensor], h: int, w: int) -> list[Tensor]:
        return self.proj(self.attend(xs, h, w))


class Scores(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = NormOfEach(dim)
        self.fc1 = nn.Linear(dim, max(dim // 4, 1))
        self.fc2 = nn.Linear(max(dim // 4, 1), 1)

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        return [self.fc2(F.gelu(self.fc1(x))).sigmoid() for x in self.norm(xs)]


class Block(nn.Module):
    def __init__(self, dim: int, heads: int, ratio: int, drop_path: float) -> None:
        super().__init__()
        self.score = Scores(dim)
        self.norm1 = NormOfEach(dim)
        self.attn = Attention(dim, heads, ratio)
        self.norm2 = NormOfEach(dim)
        self.mlp = Mlp(dim)
        self.drop_path = DropPath(drop_path)

    def forward(
        self, xs: list[Tensor], h: int, w: int, threshold: float
    ) -> tuple[list[Tensor], Tensor]:
        scores = self.score(xs)
        for norm, branch in ((self.norm1, self.attn), (self.norm2, self.mlp)):
            read = [x * s for x, s in zip(norm(xs), scores, strict=True)]
            outs = branch(read, h, w)
            xs = [x + self.drop_path(out) for x, out in zip(xs, outs, strict=True)]
        keep = [(s >= threshold).to(xs[0].dtype) for s in scores]
        fused = [
            xs[0] * keep[0] + xs[1] * (1 - keep[0]),
            xs[1] * keep[1] + xs[0] * (1 - keep[1]),
        ]
        return fused, sum(s.sum((1, 2)) for s in scores)


class PublishedTokenFusion(nn.Module):
    """The whole network, from the stacked input to the low-resolution logits."""

    def __init__(
        self, variant, places, threshold, drop_path, embed_dim, num_classes, dropout
    ) -> None:
        super().__init__()
        size = mit_variant(variant)
        self.places, self.threshold = places, threshold
        self.alpha = nn.Parameter(torch.ones(2))
        rates = linear_drop_path(drop_path, size.depths)
        self.embeds, self.stages = nn.ModuleList(), nn.ModuleList()
        self.norms = nn.ModuleList(NormOfEach(dim) for dim in size.embed_dims)
        width = 3
        for i, dim in enumerate(size.embed_dims):
            kernel, stride = (3, 2) if i else (7, 4)
            self.embeds.append(PatchEmbed(width, dim, kernel, stride))
            self.stages.append(
                nn.ModuleList(
                    Block(dim, size.num_heads[i], size.sr_ratios[i], rate)
                    for rate in rates[i]
                )
            )
            width = dim
        self.decoder = Decoder(size.embed_dims, embed_dim, num_classes, dropout)

    def load_from(self, model: nn.Module) -> None:
        """Take the weights of a segmentor of ours, strictly."""
        ours = model.state_dict()
        names = {our_key(name): name for name in self.state_dict()}
        assert names.keys() == ours.keys(), sorted(names.keys() ^ ours.keys())[:10]
        self.load_state_dict({names[key]: ours[key] for key in ours}, strict=True)

    def outputs(self, x: Tensor) -> list[Tensor]:
        """The logits of both streams and the norm of the scores."""
        xs = [torch.cat([x[:, s] for s in places], 1) for places in self.places]
        xs = [s.repeat(1, 3, 1, 1) if s.shape[1] == 1 else s for s in xs]
        levels, total = [], torch.zeros(len(x), dtype=x.dtype, device=x.device)
        for embed, blocks, norm in zip(
            self.embeds, self.stages, self.norms, strict=True
        ):
            xs, h, w = embed(xs)
            for block in blocks:
                xs, scores = block(xs, h, w, self.threshold)
                total = total + scores
            xs = [tokens_to_map(s, h, w) for s in norm(xs)]
            levels.append(xs)
        logits = [self.decoder([level[i] for level in levels]) for i in (0, 1)]
        return [*logits, total]

    def forward(self, x: Tensor) -> Tensor:
        """The logits of the ensemble."""
        first, second = self.alpha.softmax(0)
        outs = self.outputs(x)
        return first * outs[0] + second * outs[1]


_NAMES = (
    (r'^alpha', 'decode_head.alpha'),
    (r'^decoder\.', 'decode_head.'),
    (r'^stages\.(\d+)\.(\d+)\.score\.', r'backbone.scores.\1.\2.'),
    (r'^embeds\.(\d+)\.', r'backbone.encoder.stages.\1.patch_embed.'),
    (r'^norms\.(\d+)\.', r'backbone.encoder.stages.\1.norm.'),
    (r'^stages\.(\d+)\.(\d+)\.', r'backbone.encoder.stages.\1.blocks.\2.'),
    (r'dwconv\.dwconv', 'dwconv'),
    (r'\.module\.', '.'),
    (r'\.ln_(\d)\.', r'.\1.'),
)


def our_key(name: str) -> str:
    """Name of a parameter in our segmentor."""
    for pattern, ours in _NAMES:
        name = re.sub(pattern, ours, name)
    return name


def build_published_tokenfusion(model: nn.Module) -> PublishedTokenFusion:
    """Make the plain form of a segmentor with our ``TokenFusion``."""
    backbone, head = model.backbone, model.decode_head
    layout = backbone.input.layout
    places = [
        [layout.value_slice(name) for name in names]
        for names in backbone.input.streams.values()
    ]
    published = PublishedTokenFusion(
        backbone.variant,
        places,
        backbone.threshold,
        backbone.encoder.stages[-1].blocks[-1].drop_path.rate,
        head.channels,
        head.out_channels,
        head.dropout_ratio,
    )
    # The loss is computed by our head, with its own weights of the ensemble.
    published.alpha = head.alpha
    published.load_from(model)
    reference = next(model.parameters())
    return published.to(reference.device).train(model.training)
