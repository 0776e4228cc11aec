"""Published form of Deformable DETR's attention layer: linear layers and grid_sample.

Paper: Deformable DETR, 2020, https://arxiv.org/abs/2010.04159, equation 3; the
parameters have the names of the official module and of mmcv's layer (both Apache-2.0),
of which also is how a box scales offsets. Always (B, N, E).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PublishedDeformableLayer(nn.Module):
    """One query at a time is asked where to look, one head at a time looks."""

    def __init__(
        self, dim: int, heads: int, levels: int, points: int, value_dim: int
    ) -> None:
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.sampling_offsets = nn.Linear(dim, heads * levels * points * 2)
        self.attention_weights = nn.Linear(dim, heads * levels * points)
        self.value_proj = nn.Linear(dim, value_dim)
        self.output_proj = nn.Linear(value_dim, dim)

    def forward(
        self,
        query: Tensor,
        value: Tensor,
        identity: Tensor,
        query_pos: Tensor,
        padding: Tensor,
        references: Tensor,
        sizes: list[tuple[int, int]],
    ) -> Tensor:
        """References (B, Q, L, 2 or 4) in [0, 1]; padding (B, S) is True where padded.

        A box (x, y, width, height) scales the offsets: P steps reach half of it.
        """
        b, q, _ = query.shape
        asked = query + query_pos
        offsets = self.sampling_offsets(asked)
        offsets = offsets.view(b, q, self.heads, self.levels, self.points, 2)
        weights = self.attention_weights(asked).view(b, q, self.heads, -1).softmax(3)
        weights = weights.view(b, q, self.heads, self.levels, self.points)
        values = self.value_proj(value) * (~padding)[..., None]
        heads = []
        for head, channels in enumerate(values.chunk(self.heads, 2)):
            total = torch.zeros(b, channels.shape[2], q)
            maps = channels.split([h * w for h, w in sizes], 1)
            for level, (h, w) in enumerate(sizes):
                point = references[:, :, level, None]
                offset = offsets[:, :, head, level]
                if references.shape[3] == 4:
                    shift = offset / self.points * point[..., 2:] / 2
                else:
                    shift = offset / torch.tensor([w, h])
                grid = 2 * (point[..., :2] + shift) - 1
                image = maps[level].transpose(1, 2).reshape(b, -1, h, w)
                found = F.grid_sample(image, grid, align_corners=False)
                total = total + (found * weights[:, None, :, head, level]).sum(3)
            heads.append(total.transpose(1, 2))
        return self.output_proj(torch.cat(heads, 2)) + identity
