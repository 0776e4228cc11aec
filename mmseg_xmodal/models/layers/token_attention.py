"""Multi-head attention between token sequences, with masks that may hide everything."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Tokens whose weights are held at a time when attention maps are drawn.
_CHUNK = 1024


def check_heads(where: str, channels: int, heads: int | None) -> int:
    """Number of heads: the given one, or one per 32 channels where that divides.

    Raises:
        ValueError: If ``channels`` is no multiple of ``heads``.
    """
    if heads is None:
        heads = max(channels // 32, 1)
        while channels % heads:
            heads -= 1
    if heads < 1 or channels % heads:
        raise ValueError(
            f'{where}: num_heads={heads} for {channels} channels, expected a divisor '
            'of the channels. Change num_heads of the neck (one number or one per '
            'level), or leave it out.'
        )
    return heads


def masked_attention(
    q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None
) -> Tensor:
    """``scaled_dot_product_attention`` in which a sample may have no key at all.

    Args:
        q: Queries.
        k: Keys.
        v: Values.
        key_mask: True where the key may be attended to; the others must be finite. A
            sample without such a key gives zeros, and no gradient.

    Shape:
        - q: (B, H, L, D)
        - k, v: (B, H, S, D)
        - key_mask: (B, S), bool
        - output: (B, H, L, D)
    """
    if key_mask is None:
        return F.scaled_dot_product_attention(q, k, v)
    # What a kernel gives for a row without any key differs between devices: give it
    # all keys, and take the result away.
    some = key_mask.any(1, keepdim=True)
    mask = (key_mask | ~some)[:, None, None]
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return torch.where(some[:, None, :, None], out, 0)


def clear_masked(source: Tensor, key_mask: Tensor | None) -> Tensor:
    """Put zeros where a token is masked: NaN and inf survive the weight zero.

    Before anything with parameters, whose gradients would be NaN as well.

    Shape:
        - source, output: (B, S, C)
        - key_mask: (B, S), bool, or None
    """
    return source if key_mask is None else torch.where(key_mask[..., None], source, 0)


class TokenAttention(nn.Module):
    """Attention from one token sequence to another.

    The last projection has no bias: where a query sees no key, the output is zero.

    Args:
        dim: Channels C of queries and output.
        heads: Attention heads; C is a multiple.
        key_dim: Channels of the keys' tokens; None = C.
    """

    def __init__(self, dim: int, heads: int, key_dim: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(key_dim or dim, 2 * dim)
        self.proj = nn.Linear(dim, dim, bias=False)

    def project(self, x: Tensor, source: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, (B, H, L or S, D) each."""
        q = self.q(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
        kv = self.kv(source).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return q, kv[0], kv[1]

    def forward(
        self, x: Tensor, source: Tensor, key_mask: Tensor | None = None
    ) -> Tensor:
        """Attend from ``x`` to ``source``.

        Shape:
            - x: (B, L, C)
            - source: (B, S, key_dim)
            - key_mask: (B, S), bool, True where a token may be attended to; others have
              no influence, not even NaN
            - output: (B, L, C)
        """
        source = clear_masked(source, key_mask)
        out = masked_attention(*self.project(x, source), key_mask)
        return self.proj(out.transpose(1, 2).flatten(2))

    @torch.no_grad()
    def weights(
        self, x: Tensor, source: Tensor, key_mask: Tensor | None, groups: int = 1
    ) -> Tensor:
        """Attention weights, mean over heads, for maps; :meth:`forward` keeps none.

        Args:
            x: Tokens of the queries.
            source: Tokens of the keys.
            key_mask: As in :meth:`forward`.
            groups: Sum over this many equal runs of keys; 0 = keep every key.

        Shape:
            - output: (B, L, groups), or (B, L, S) for ``groups=0``; zero in samples
              without a key.
        """
        q, k, _ = self.project(x, clear_masked(source, key_mask))
        parts = []
        for part in (q * q.shape[-1] ** -0.5).split(_CHUNK, 2):
            weights = masked_softmax(part @ k.transpose(2, 3), key_mask)
            weights = weights.mean(1)
            if groups:
                weights = weights.unflatten(2, (groups, -1)).sum(3)
            parts.append(weights)
        return torch.cat(parts, 1)


def masked_softmax(logits: Tensor, key_mask: Tensor | None) -> Tensor:
    """Softmax over the last axis in single precision; zeros where nothing is left.

    Shape:
        - logits, output: (B, H, L, S)
        - key_mask: (B, S), bool, or None
    """
    logits = logits.float()
    if key_mask is None:
        return logits.softmax(-1)
    mask = key_mask[:, None, None]
    lowest: Any = torch.finfo(logits.dtype).min
    weights = torch.where(mask, logits, lowest).softmax(-1)
    return torch.where(mask, weights, 0)
