"""Attention within windows, as in Swin Transformer.

Paper: Swin Transformer, 2021, https://arxiv.org/abs/2103.14030. Official code:
https://github.com/microsoft/Swin-Transformer (MIT). Written from the paper.

Differences, none of which changes a number:

* Only tokens are projected, never the padding. A key's bias adds the same to all
  logits of a query, which the softmax forgets; a value's bias passes through attention
  unchanged, because its weights sum to 1. So both can be taken out of the windows, and
  what is padded is zero after the projection as well as before.
* The table of position biases becomes a matrix by two sliding windows over it: no
  buffer of indices.
* Bias and mask are one addend. Inference keeps no matrix of weights.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .slices import is_plain
from .windows import Windows


class WindowAttention(nn.Module):
    """Self-attention within windows, with a learned bias per relative position.

    Args:
        dim: Channels C.
        heads: Attention heads; C is a multiple.
        window: Tokens per side of a window.
    """

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.window = window
        self.relative_position_bias_table = nn.Parameter(
            torch.zeros((2 * window - 1) ** 2, heads)
        )
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def position_bias(self) -> Tensor:
        """Bias of each head from query to key, (heads, window**2, window**2)."""
        table = self.relative_position_bias_table.t()
        table = table.unflatten(1, (2 * self.window - 1, -1))
        # The row of the table is query - key + window - 1: windows that slide over it
        # start at the query and run through the keys from the last to the first.
        slid = table.unfold(1, self.window, 1).unfold(2, self.window, 1)
        return slid.flatten(3).flatten(1, 2).flip(2)

    def forward(self, x: Tensor, windows: Windows) -> Tensor:
        """(B, N, C) to (B, N, C), both in the order of the map."""
        if not is_plain(self.qkv, self.proj):
            out = self._attend(self.qkv(windows.to_windows(x)), windows)
            return self.proj(windows.to_tokens(out))
        q_bias, _, v_bias = self.qkv.bias.chunk(3)
        bias = F.pad(q_bias, (0, 2 * len(q_bias)))
        # A product of the size of one token: under AMP it keeps full precision.
        with torch.autocast(x.device.type, enabled=False):
            out_bias = self.proj.bias + self.proj.weight @ v_bias
        qkv = windows.to_windows(F.linear(x, self.qkv.weight, bias))
        out = windows.to_tokens(self._attend(qkv, windows))
        return F.linear(out, self.proj.weight, out_bias)

    def _attend(self, qkv: Tensor, windows: Windows) -> Tensor:
        """(B, K * window**2, 3C) to (B, K * window**2, C)."""
        batch = len(qkv)
        parts = qkv.unflatten(2, (3, self.heads, -1))
        parts = parts.unflatten(1, (windows.count, -1)).permute(3, 0, 1, 4, 2, 5)
        addend = self.position_bias().unsqueeze(0)
        if windows.mask is not None:
            addend = addend + windows.mask[:, None]
        if addend.requires_grad and qkv.device.type == 'cpu':
            # torch has no fused kernel here for a bias that is learned. The scale is
            # part of the product: a scaled copy of the queries would be kept.
            shape = parts.shape[1:5]
            q, k, v = parts.flatten(1, 3)
            scale = q.shape[2] ** -0.5
            nothing = q.new_zeros(1)
            logits = torch.baddbmm(nothing, q, k.mT, beta=0, alpha=scale)
            # An unsafe view, because autograd copies what is added into a view.
            logits = torch.ops.aten._unsafe_view(logits, [*shape, shape[3]])
            weights = logits.add_(addend).softmax(-1).flatten(0, 2).to(v.dtype)
            out = torch.bmm(weights, v).unflatten(0, shape[:3])
            return out.transpose(2, 3).flatten(3).flatten(1, 2)
        if windows.mask is not None and batch > 1:
            addend = addend.repeat(batch, 1, 1, 1)
        q, k, v = parts.flatten(1, 2)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=addend.to(q.dtype))
        return out.transpose(1, 2).flatten(2).unflatten(0, (batch, -1)).flatten(1, 2)
