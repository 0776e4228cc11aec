"""The pixel-wise fusion of GeminiFusion: each pixel attends to itself and its partner.

Paper: GeminiFusion: Efficient Pixel-wise Multimodal Fusion for Vision Transformer,
2024, https://arxiv.org/abs/2406.01210. Official code:
https://github.com/JiaDingCN/GeminiFusion (MIT; its MiT file is under NVIDIA's
licence). Written from the description, nothing is copied.

With tokens a and b of one pixel, stream a asks two keys, ``a + key noise`` and
``a * rel(a, b)``, for two values, ``a + value noise`` and ``b``; stream b likewise.

Differences, none of which changes a number:

* A softmax over two keys is the sigmoid of the difference of their logits, so only the
  difference of the keys is projected, and its bias falls out.
* The result is the own value minus a share of (own value - partner value). The latter,
  and what ``rel`` needs of the partner, are linear in a - b, which the streams share up
  to the sign.
* What is linear in the own token alone (its value, after the output projection and the
  projection of the block that follows) is one matrix, where there are tokens enough to
  pay for making it.
* No sequence of keys is made; inference takes some pixels at a time.
* Where the partner is invalid its share is zero.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmseg_xmodal.registry import MODELS

from ..layers.initialisation import segformer_init
from ..layers.slices import inference_slices, is_plain
from ..layers.tokens import to_map, to_tokens
from .pairwise import check_two

# Values of one pixel and channel that are alive at a time, for slices of pixels.
_ALIVE = 8


class _Relation(nn.Module):
    """How much of each channel of a pixel its partner supports; sums to 1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(2 * channels, channels)
        self.fc2 = nn.Linear(channels, channels)

    def forward(self, both: Tensor) -> Tensor:
        """(..., 2C) to (..., C)."""
        return self.fc2(F.gelu(self.fc1(both))).softmax(-1)


class _Matrices(NamedTuple):
    """What one stream multiplies with: matrices and their biases."""

    query: tuple[Tensor, Tensor]
    hidden: tuple[Tensor, Tensor]
    key: tuple[Tensor, Tensor]
    delta: tuple[Tensor, Tensor]
    base: tuple[Tensor, Tensor]
    out: tuple[Tensor, Tensor]


@MODELS.register_module()
class PixelPairFusion(nn.Module):
    """Attention of each pixel over two keys: its own and its partner's.

    Args:
        channels: Channels C of both streams.
        num_heads: Attention heads; C is a multiple. 8 at every stage in the paper.

    Raises:
        ValueError: If C is no multiple of the heads.
    """

    def __init__(self, channels: int, num_heads: int = 8) -> None:
        super().__init__()
        if channels % num_heads:
            raise ValueError(
                f'PixelPairFusion has channels={channels} and num_heads={num_heads}, '
                'expected a multiple. Change num_heads of the fusion, or the variant '
                'of the backbone.'
            )
        self.channels = channels
        self.num_heads = num_heads
        self.relation = _Relation(channels)
        # They hold the parameters; they are called where they are more than these.
        self.cross = nn.ModuleList(
            nn.MultiheadAttention(channels, num_heads) for _ in range(2)
        )
        self.key_noise = nn.Embedding(2, channels)
        self.value_noise = nn.Embedding(2, channels)
        segformer_init(self)

    def forward(
        self, feats: list[Tensor], valid: list[Tensor] | None = None
    ) -> tuple[list[Tensor], Tensor]:
        """Return both streams after the exchange, and their mean.

        Shape:
            - feats: two maps (B, C, h, w).
            - valid: two maps (B, 1, h, w) in [0, 1], or None.
            - output: two maps (B, C, h, w), and one.

        Raises:
            ValueError: If there are not two streams.
        """
        check_two(self, len(feats))
        size = (feats[0].shape[2], feats[0].shape[3])
        shares = None
        if valid is not None:
            shares = torch.stack([to_tokens(v) for v in valid]).flatten(1, 2)
        tokens = torch.stack([to_tokens(f) for f in feats])
        out = self.exchange(tokens.flatten(1, 2), shares).view(tokens.shape)
        streams = [to_map(part, size) for part in out]
        return streams, (streams[0] + streams[1]) / 2

    def exchange(
        self, x: Tensor, valid: Tensor | None = None, proj: nn.Module | None = None
    ) -> Tensor:
        """Exchange between the streams, then apply ``proj`` if there is one.

        Args:
            x: Tokens of both streams.
            valid: Their validity in [0, 1]; None = 1.
            proj: Linear layer from C to C that both streams share.

        Shape:
            - x: (2, N, C), N over all samples; output: as ``x``
            - valid: (2, N, 1)
        """
        if not self._is_plain():
            out = self._published(x, valid)
            return out if proj is None else proj(out)
        # Making the merged matrices costs 2C rows of products, each saves one.
        merge = x.shape[1] > 2 * self.channels and (proj is None or is_plain(proj))
        matrices = [self._matrices(s, merge, proj) for s in range(2)]
        slices = inference_slices(x, x.shape[1], _ALIVE * self.channels)
        if len(slices) == 1:
            out = self._pixels(x, valid, matrices, merge)
        else:
            out = torch.empty_like(x)
            for part in slices:
                shares = None if valid is None else valid[:, part]
                out[:, part] = self._pixels(x[:, part], shares, matrices, merge)
        return out if merge or proj is None else proj(out)

    def _is_plain(self) -> bool:
        """Whether the layers are nothing but their weights (no adapters, no hooks)."""
        return is_plain(self.relation.fc1, self.relation.fc2) and all(
            type(m) is nn.MultiheadAttention
            and not m._forward_hooks
            and not m._forward_pre_hooks
            for m in self.cross
        )

    def _matrices(self, s: int, merge: bool, proj: Any) -> _Matrices:
        """Matrices of stream ``s``; ``proj`` goes into them if ``merge``."""
        cross: Any = self.cross[s]
        fc1 = self.relation.fc1
        query, key, value = cross.in_proj_weight.chunk(3)
        query_bias, _, value_bias = cross.in_proj_bias.chunk(3)
        own, partner = fc1.weight.chunk(2, 1)
        noise = F.linear(self.value_noise.weight[s], value)
        out, out_bias = cross.out_proj.weight, cross.out_proj.bias
        base, base_bias = value, noise + value_bias
        if merge:
            # Small products: under AMP they keep full precision.
            with torch.autocast(out.device.type, enabled=False):
                if proj is not None:
                    out_bias = torch.addmv(proj.bias, proj.weight, out_bias)
                    out = proj.weight @ out
                base_bias = torch.addmv(out_bias, out, base_bias.to(out.dtype))
                identity = self._identity() if proj is None else proj.weight
                base = torch.addmm(identity, out, value)
        return _Matrices(
            query=(query, query_bias),
            hidden=(own + partner, fc1.bias),
            key=(key, F.linear(self.key_noise.weight[s], key)),
            delta=(value, -noise if s else noise),
            base=(base, base_bias),
            out=(out, out_bias),
        )

    def _identity(self) -> Tensor:
        weight = self.relation.fc2.weight
        return torch.eye(self.channels, dtype=weight.dtype, device=weight.device)

    def _pixels(
        self,
        x: Tensor,
        valid: Tensor | None,
        matrices: list[_Matrices],
        merge: bool,
    ) -> Tensor:
        """The exchange in closed form; (2, n, C) to (2, n, C)."""
        heads, scale = self.num_heads, (self.channels // self.num_heads) ** -0.5
        fc1, fc2 = self.relation.fc1, self.relation.fc2
        difference = x[0] - x[1]
        shared = F.linear(difference, fc1.weight[:, self.channels :])
        outs = []
        for s, (own, m) in enumerate(zip(x, matrices, strict=True)):
            sign = 1 if s else -1
            hidden = torch.add(F.linear(own, *m.hidden), shared, alpha=sign)
            relation = F.linear(F.gelu(hidden), fc2.weight, fc2.bias).softmax(-1)
            # Own key - partner key, but for the noise (in the bias).
            key = F.linear(torch.addcmul(own, own, relation, value=-1), *m.key)
            logit = (F.linear(own, *m.query) * key).unflatten(1, (heads, -1)).sum(-1)
            share = (-scale * logit).sigmoid()
            if valid is not None:
                share = share * valid[1 - s]
            delta = F.linear(difference, *m.delta).unflatten(1, (heads, -1))
            delta = (delta * share.unsqueeze(-1)).flatten(1)
            base = F.linear(own, *m.base)
            if merge:
                outs.append(torch.addmm(base, delta, m.out[0].t(), alpha=sign))
            else:
                value = torch.add(base, delta, alpha=sign)
                outs.append(own + F.linear(value, *m.out))
        return torch.stack(outs)

    def _published(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """The published order, for layers that are more than their weights (LoRA)."""
        outs = []
        for s, cross in enumerate(self.cross):
            own, partner = x[s], x[1 - s]
            relation = self.relation(torch.cat([own, partner], -1))
            keys = torch.stack([own + self.key_noise.weight[s], own * relation])
            values = torch.stack([own + self.value_noise.weight[s], partner])
            out = cross(own[None], keys, values, need_weights=False)[0][0]
            if valid is not None:
                alone = cross(own[None], keys[:1], values[:1], need_weights=False)[0]
                out = alone[0] + valid[1 - s] * (out - alone[0])
            outs.append(own + out)
        return torch.stack(outs)
