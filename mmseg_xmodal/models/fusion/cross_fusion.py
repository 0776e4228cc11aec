"""Feature fusion module (FFM) of CMX.

Paper: CMX, 2022, https://arxiv.org/abs/2203.04838. Official code:
https://github.com/huaaaliu/RGBX_Semantic_Segmentation (MIT).

Differences that change no number (exact algebra): keys and values are linear without
bias in the same tokens u, so their product over all tokens is
``W_k (u^T u) W_v^T``, one Gram matrix instead of two projections of every token; the
exchanged context and the projection after it are both linear, so they become one small
matrix per sample. A validity per stream is understood.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from torch import Tensor, nn

from mmseg_xmodal.registry import MODELS

from ..layers.initialisation import segformer_init
from ..layers.resize_linear import pointwise
from ..layers.tokens import to_map, to_tokens
from .pairwise import check_two


class _Contexts(nn.Module):
    """Key and value projections of both streams, under published keys."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.kv1 = nn.Linear(channels, 2 * channels, bias=False)
        self.kv2 = nn.Linear(channels, 2 * channels, bias=False)

    def forward(self, u: Tensor, weight: Tensor) -> Tensor:
        """Context of one stream: (B, N, C) and (2C, C) to (B, heads, C/h, C/h).

        The logits are sums over all tokens: half precision would overflow, so this
        small part always runs in single precision or better.
        """
        with torch.autocast(u.device.type, enabled=False):
            u = u if u.dtype == torch.float64 else u.float()
            gram = u.transpose(1, 2) @ u
            key, value = weight.to(u.dtype).unflatten(0, (2, self.heads, -1))
            logits = key @ gram.unsqueeze(1) @ value.transpose(1, 2)
            return (logits * value.shape[1] ** -0.5).softmax(2)


class _CrossPath(nn.Module):
    """Exchange of global contexts between the streams."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.channel_proj1 = nn.Linear(channels, 2 * channels)
        self.channel_proj2 = nn.Linear(channels, 2 * channels)
        self.cross_attn = _Contexts(channels, heads)
        self.end_proj1 = nn.Linear(2 * channels, channels)
        self.end_proj2 = nn.Linear(2 * channels, channels)
        self.norm1 = nn.LayerNorm(channels)
        self.norm2 = nn.LayerNorm(channels)

    def forward(
        self, z1: Tensor, z2: Tensor, valid: list[Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        """(B, N, C) twice to (B, N, C) twice; ``valid`` (B, N, 1) twice."""
        h1 = F.relu(self.channel_proj1(z1))
        h2 = F.relu(self.channel_proj2(z2))
        u1, u2 = h1.chunk(2, 2)[1], h2.chunk(2, 2)[1]
        if valid is not None:
            u1, u2 = u1 * valid[0], u2 * valid[1]
        context1 = self.cross_attn(u1, self.cross_attn.kv1.weight)
        context2 = self.cross_attn(u2, self.cross_attn.kv2.weight)
        out1 = self.norm1(z1 + _end(h1, context2, self.end_proj1))
        out2 = self.norm2(z2 + _end(h2, context1, self.end_proj2))
        return out1, out2


def _end(hidden: Tensor, context: Tensor, proj: nn.Linear) -> Tensor:
    """Project [y ; u G] with y, u the halves of ``hidden`` and G block-diagonal.

    ``(u G) W^T = u (G W^T)``: the right factor is C x C per sample.
    """
    heads, width = context.shape[1], context.shape[2]
    direct, crossed = proj.weight.chunk(2, 1)
    per_head = crossed.t().unflatten(0, (heads, width)).to(context.dtype)
    through = (context @ per_head).flatten(1, 2)
    direct = direct.t().to(through.dtype).expand(len(through), -1, -1)
    matrix = torch.cat([direct, through], 1).to(hidden.dtype)
    return torch.baddbmm(proj.bias.to(hidden.dtype), hidden, matrix)


class _ChannelEmbed(nn.Module):
    """Mix both streams into one map: 1x1 residual plus a depth-wise branch."""

    def __init__(self, channels: int, norm_cfg: dict) -> None:
        super().__init__()
        self.residual = nn.Conv2d(2 * channels, channels, 1, bias=False)
        self.channel_embed = nn.Sequential(
            nn.Conv2d(2 * channels, channels, 1),
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 1),
            build_norm_layer(norm_cfg, channels)[1],
        )
        self.norm = build_norm_layer(norm_cfg, channels)[1]

    def forward(self, x: Tensor) -> Tensor:
        """(B, 2C, h, w) to (B, C, h, w)."""
        first, depthwise, relu, last, norm = self.channel_embed
        t = pointwise(last, relu(depthwise(pointwise(first, x))))
        return self.norm(pointwise(self.residual, x) + norm(t))


@MODELS.register_module()
class FeatureFusionModule(nn.Module):
    """Fuse two streams: exchange of global contexts, then mixing of channels.

    Where a stream is invalid it adds nothing to its context nor to the fused map.

    Args:
        channels: Channels C of both streams.
        num_heads: Heads of the context; C is a multiple.
        norm_cfg: Norm layers of the mixing part; None = BN.

    Raises:
        ValueError: If C is no multiple of ``num_heads``.
    """

    def __init__(
        self, channels: int, num_heads: int = 1, norm_cfg: dict | None = None
    ) -> None:
        super().__init__()
        if channels % num_heads:
            raise ValueError(
                f'FeatureFusionModule has channels={channels} and '
                f'num_heads={num_heads}, expected a multiple. Change num_heads.'
            )
        self.cross = _CrossPath(channels, num_heads)
        self.channel_emb = _ChannelEmbed(channels, norm_cfg or dict(type='BN'))
        segformer_init(self)

    def forward(
        self, feats: list[Tensor], valid: list[Tensor] | None = None
    ) -> tuple[list[Tensor], Tensor]:
        """Fuse.

        Returns:
            The streams as they came, and the fused map.

        Shape:
            - feats: two maps (B, C, h, w).
            - valid: two maps (B, 1, h, w) in [0, 1], or None.
            - output: ``feats``, and (B, C, h, w).

        Raises:
            ValueError: If there are not two streams.
        """
        check_two(self, len(feats))
        weights = None if valid is None else [to_tokens(v) for v in valid]
        outs = self.cross(to_tokens(feats[0]), to_tokens(feats[1]), weights)
        if weights is not None:
            outs = [out * weight for out, weight in zip(outs, weights, strict=True)]
        size = (feats[0].shape[2], feats[0].shape[3])
        return list(feats), self.channel_emb(to_map(torch.cat(tuple(outs), 2), size))
