"""The deformable attention layer of Deformable DETR, with mmcv's names and arguments.

Paper: Deformable DETR, 2020, https://arxiv.org/abs/2010.04159. Official code:
https://github.com/fundamentalvision/Deformable-DETR (Apache-2.0); mmcv has a layer of
the same name (Apache-2.0). Written from the paper. Checkpoints and configs of mmcv's
layer load, with ``type='mmseg_xmodal.MultiScaleDeformableAttention'``.

Differences from mmcv's: no compiled extension is needed, locations stay float32 under
autocast, and sizes may be a list of integers, which needs no wait for the GPU.
``backend`` is new; ``im2col_step`` and ``norm_cfg`` do nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmseg_xmodal.ops import multi_scale_deformable_attention
from mmseg_xmodal.ops.msda.checks import level_pairs
from mmseg_xmodal.registry import MODELS


@MODELS.register_module()
class MultiScaleDeformableAttention(BaseModule):
    """Sample points of several levels around reference points, and add the query.

    Args:
        embed_dims: Channels E of queries, values and output.
        num_heads: Attention heads.
        num_levels: Levels L of the values.
        num_points: Points P per head and level.
        im2col_step: Not used: no batch is cut into pieces.
        dropout: Rate of the dropout on the output.
        batch_first: Whether tensors are (B, N, E) and not (N, B, E).
        norm_cfg: Not used: there is no norm, neither in mmcv's layer.
        init_cfg: Of mmengine.
        value_proj_ratio: Channels of the projected values over ``embed_dims``.
        backend: See :mod:`mmseg_xmodal.ops.dispatch`.

    Raises:
        ValueError: If the channels are no multiple of the heads.
    """

    def __init__(
        self,
        embed_dims: int = 256,
        num_heads: int = 8,
        num_levels: int = 4,
        num_points: int = 4,
        im2col_step: int = 64,
        dropout: float = 0.1,
        batch_first: bool = False,
        norm_cfg: dict | None = None,
        init_cfg: dict | None = None,
        value_proj_ratio: float = 1.0,
        backend: str = 'auto',
    ) -> None:
        super().__init__(init_cfg)
        inner = int(embed_dims * value_proj_ratio)
        if embed_dims % num_heads or inner % num_heads:
            raise ValueError(
                f'embed_dims got {embed_dims} (values {inner}), expected a multiple of '
                f'num_heads {num_heads}. Change one of them in the config.'
            )
        self.embed_dims, self.num_heads = embed_dims, num_heads
        self.num_levels, self.num_points = num_levels, num_points
        self.batch_first, self.backend = batch_first, backend
        samples = num_heads * num_levels * num_points
        self.sampling_offsets = nn.Linear(embed_dims, samples * 2)
        self.attention_weights = nn.Linear(embed_dims, samples)
        self.value_proj = nn.Linear(embed_dims, inner)
        self.output_proj = nn.Linear(inner, embed_dims)
        self.dropout = nn.Dropout(dropout)
        self.init_weights()

    def init_weights(self) -> None:
        """Start as published: equal weights, the points of a head in one direction."""
        for layer in (self.sampling_offsets, self.attention_weights):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        angle = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        ring = torch.stack([angle.cos(), angle.sin()], -1)
        ring = ring / ring.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, self.num_points + 1).view(1, 1, -1, 1)
        offsets = ring[:, None, None] * steps
        offsets = offsets.expand(-1, self.num_levels, -1, -1)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.reshape(-1))
        if self.init_cfg:
            super().init_weights()
        else:  # mmengine would log of every parameter that it has not changed it
            self._is_init = True

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        identity: Tensor | None = None,
        query_pos: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
        reference_points: Tensor | None = None,
        spatial_shapes: Tensor | Sequence[tuple[int, int]] | None = None,
        level_start_index: Tensor | None = None,
        **_: object,
    ) -> Tensor:
        """Attend; the arguments are those of mmcv's layer.

        Args:
            query: Queries.
            key: Not used; in the signature for callers of mmcv's layer.
            value: Values of all levels; the queries if not given.
            identity: What is added to the output; the queries if not given.
            query_pos: Added to the queries before offsets and weights.
            key_padding_mask: True where a value is padding: it is read as zero.
            reference_points: Points (x, y), or boxes (x, y, width, height), in [0, 1].
            spatial_shapes: (height, width) of each level.
            level_start_index: Not used; it follows from ``spatial_shapes``.

        Shape:
            - query: (B, Q, E) if ``batch_first``, else (Q, B, E)
            - value: (B, S, E) or (S, B, E)
            - key_padding_mask: (B, S)
            - reference_points: (B, Q, L, 2) or (B, Q, L, 4)
            - output: as ``query``

        Raises:
            ValueError: Without reference points or sizes, or if they do not fit.
        """
        value = query if value is None else value
        identity = query if identity is None else identity
        query = query if query_pos is None else query + query_pos
        if not self.batch_first:
            query, value = query.transpose(0, 1), value.transpose(0, 1)
        sizes = self._sizes(spatial_shapes)
        value = self.value_proj(value)
        if key_padding_mask is not None:
            _check_mask(key_padding_mask, value)
            value = value.masked_fill(key_padding_mask[..., None], 0)
        heads, levels, points = self.num_heads, self.num_levels, self.num_points
        # Under autocast the projections are in half precision: coordinates are not.
        offsets = self.sampling_offsets(query)
        offsets = offsets.unflatten(-1, (heads, levels, points, 2))
        offsets = offsets.to(torch.promote_types(offsets.dtype, torch.float32))
        weights = self.attention_weights(query).unflatten(-1, (heads, levels * points))
        weights = weights.softmax(-1).unflatten(-1, (levels, points))
        out = multi_scale_deformable_attention(
            value.unflatten(-1, (heads, -1)),
            sizes,
            self._locations(reference_points, offsets, sizes),
            weights,
            self.backend,
        )
        out = self.output_proj(out)
        if not self.batch_first:
            out = out.transpose(0, 1)
        return self.dropout(out) + identity

    def _sizes(
        self, shapes: Tensor | Sequence[tuple[int, int]] | None
    ) -> list[tuple[int, int]]:
        if shapes is None:
            raise ValueError(
                'spatial_shapes got None, expected (height, width) of '
                f'{self.num_levels} levels.'
            )
        pairs = level_pairs(shapes)
        if len(pairs) != self.num_levels:
            raise ValueError(
                f'spatial_shapes got {pairs}, expected {self.num_levels} levels. '
                'Change num_levels of the layer, or what it is given.'
            )
        return pairs

    def _locations(
        self, points: Tensor | None, offsets: Tensor, sizes: list[tuple[int, int]]
    ) -> Tensor:
        if (
            points is None
            or points.dim() != 4
            or points.shape[2] != self.num_levels
            or points.shape[-1] not in (2, 4)
        ):
            got = None if points is None else tuple(points.shape)
            raise ValueError(
                f'reference_points got the shape {got}, expected (B, Q, '
                f'{self.num_levels}, 2) or (B, Q, {self.num_levels}, 4).'
            )
        points = points.to(offsets.dtype)[:, :, None, :, None]
        if points.shape[-1] == 2:
            extent = offsets.new_tensor([[w, h] for h, w in sizes]).clamp(min=1)
            return points + offsets / extent[:, None]
        return points[..., :2] + offsets / self.num_points * points[..., 2:] * 0.5


def _check_mask(mask: Tensor, value: Tensor) -> None:
    if mask.dtype != torch.bool or mask.shape != value.shape[:2]:
        raise ValueError(
            f'key_padding_mask got {mask.dtype} of the shape {tuple(mask.shape)}, '
            f'expected torch.bool of the shape {tuple(value.shape[:2])}. Give each '
            'value one entry, True where it is padding.'
        )
