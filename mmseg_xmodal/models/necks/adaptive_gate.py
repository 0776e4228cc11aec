"""Gates that say, place by place, which modality helps.

Not a published network. The gate is an attention of each place over the modalities at
this place (a softmax over M modalities, as the pixel-wise fusion of GeminiFusion, 2024,
https://arxiv.org/abs/2406.01210, has it over two), and what a gate shuts off is not
computed at inference, in the manner of sparsely-gated experts (2017,
https://arxiv.org/abs/1701.06538).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine.model import ModuleList
from torch import Tensor, nn

from mmseg_xmodal.ops import modality_attention
from mmseg_xmodal.registry import MODELS

from ..layers.capture import is_captured
from ..layers.initialisation import segformer_init
from ..layers.map_probe import MapProbe, ShownMap
from ..layers.stacked_levels import check_counts
from ..layers.stacked_neck import StackedNeck
from ..layers.tokens import to_map, to_tokens

# Above this share of kept tokens, picking them out costs more than it saves.
_DENSE = 0.9


class GateLevel(nn.Module):
    """Gate and project the streams of one level.

    Args:
        dim: Channels C.
        num_streams: Number of streams N.
        hidden: Channels of the gates' queries and keys.
        mlp_ratio: Hidden channels of the projections over C.
        threshold: Gates below it are shut at inference, in [0, 1).
        top_k: Gates that stay open per place at inference; None = all.
    """

    def __init__(
        self,
        dim: int,
        num_streams: int,
        hidden: int,
        mlp_ratio: int,
        threshold: float,
        top_k: int | None,
    ) -> None:
        super().__init__()
        self.threshold = threshold
        self.top_k = top_k
        self.norms = ModuleList(nn.LayerNorm(dim) for _ in range(num_streams))
        self.query = nn.Linear(num_streams * (dim + 1), hidden)
        self.keys = ModuleList(nn.Linear(dim, hidden) for _ in range(num_streams))
        self.mlps = ModuleList(
            nn.Sequential(
                nn.Linear(dim, mlp_ratio * dim),
                nn.GELU(),
                nn.Linear(mlp_ratio * dim, dim),
            )
            for _ in range(num_streams)
        )

    def forward(
        self, tokens: list[Tensor], valid: list[Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        """Return the fused tokens and the gates.

        Shape:
            - tokens: (B, L, C) each, zero where invalid.
            - valid: (B, L, 1) each, in [0, 1], or None.
            - fused: (B, L, C)
            - gates: (B, L, N); they sum to 1, or are 0 where no stream is valid.
        """
        normed = [norm(t) for norm, t in zip(self.norms, tokens, strict=True)]
        gates = self.gates(normed, valid)
        if self.training:
            return self._dense(tokens, normed, gates), gates
        gates = self.shut(gates)
        # While a graph is captured, the number of open gates is not known.
        if is_captured() or torch.is_grad_enabled():
            return self._dense(tokens, normed, gates), gates
        return self._sparse(tokens, normed, gates), gates

    def gates(self, normed: list[Tensor], valid: list[Tensor] | None) -> Tensor:
        """Softmax over the valid streams of each place, in single precision."""
        if valid is None:
            valid = [t.new_ones(1, 1, 1).expand(*t.shape[:2], 1) for t in normed]
        seen = torch.cat(valid, 2) > 0
        # A norm's bias is not zero, where the token is.
        parts = [torch.where(seen[..., i : i + 1], t, 0) for i, t in enumerate(normed)]
        query = self.query(torch.cat([*parts, *(v.to(parts[0]) for v in valid)], 2))
        keys = [key(t).unsqueeze(2) for key, t in zip(self.keys, parts, strict=True)]
        # Only the weights are wanted: which values there are depends on them.
        values = [key[..., :1] for key in keys]
        _, gates = modality_attention(
            query.unsqueeze(2), keys, values, seen.transpose(1, 2), return_weights=True
        )
        return gates.squeeze(3).transpose(1, 2)

    def shut(self, gates: Tensor) -> Tensor:
        """Shut small gates and spread what they had over the open ones, (B, L, N).

        The largest gate of a place always stays.
        """
        largest = gates.amax(2, keepdim=True)
        kept = (gates >= self.threshold) | (gates == largest)
        if self.top_k is not None and self.top_k < gates.shape[2]:
            best = gates.topk(self.top_k, 2).indices
            kept &= torch.zeros_like(kept).scatter(2, best, True)
        gates = torch.where(kept, gates, 0)
        return gates / gates.sum(2, keepdim=True).clamp(min=1e-6)

    def _dense(
        self, tokens: list[Tensor], normed: list[Tensor], gates: Tensor
    ) -> Tensor:
        """All tokens of all streams."""
        out = torch.zeros_like(tokens[0])
        for i, mlp in enumerate(self.mlps):
            gate = gates[..., i : i + 1].to(out.dtype)
            out = out + gate * (tokens[i] + mlp(normed[i]).to(out.dtype))
        return out

    def _sparse(
        self, tokens: list[Tensor], normed: list[Tensor], gates: Tensor
    ) -> Tensor:
        """The same, without the tokens whose gate is shut."""
        out = torch.zeros_like(tokens[0]).flatten(0, 1)
        flat = gates.flatten(0, 1).to(out.dtype)
        for i, mlp in enumerate(self.mlps):
            gate = flat[:, i : i + 1]
            index = gate.squeeze(1).nonzero().squeeze(1)
            own, projected = tokens[i].flatten(0, 1), normed[i].flatten(0, 1)
            if len(index) > _DENSE * len(gate):
                out += gate * (own + mlp(projected).to(out.dtype))
            elif len(index):
                part = own[index] + mlp(projected[index]).to(out.dtype)
                out.index_add_(0, index, gate[index] * part)
        return out.view_as(tokens[0])


@MODELS.register_module()
class AdaptiveGateNeck(StackedNeck):
    """One gate per modality, level and place; the gated sum of projected streams.

    Gates come from the content of all streams at the place and from their validity:
    an invalid modality has the gate 0, and the gates of a place sum to 1. In training
    all gates are soft. At inference those below ``threshold`` or behind the ``top_k``
    largest are shut, their share goes to the open ones, and the projections skip the
    tokens behind shut gates: a missing modality costs no projection at all. Behind
    ``fusion=dict(type='mmseg_xmodal.StackStreams')``.

    After each pass ``last_gates`` holds the gates that were used, one (B, N, h, w) per
    level, detached; after a compiled or traced pass it is empty.

    Args:
        in_channels: Channels C of one stream, per level; also of the output.
        num_streams: Number of streams N.
        threshold: Gates below it are shut at inference, in [0, 1).
        top_k: Gates that stay open per place at inference; None = all.
        hidden: Channels of the gates' queries and keys.
        mlp_ratio: Hidden channels of the projections over C.
        validity: Whether the levels end with one validity channel per stream.
        init_cfg: As in mmengine.

    Shape:
        - input: (B, N * C + N, h, w) per level, or (B, N * C, h, w) without validity.
        - output: (B, C, h, w) per level.

    Raises:
        ValueError: If ``threshold`` or ``top_k`` is out of range.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_streams: int = 2,
        threshold: float = 0.1,
        top_k: int | None = None,
        hidden: int = 32,
        mlp_ratio: int = 2,
        validity: bool = True,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(in_channels, num_streams, validity, init_cfg)
        check_counts(self, hidden=hidden, mlp_ratio=mlp_ratio)
        if not 0 <= threshold < 1:
            raise ValueError(
                f'threshold={threshold}, expected a number in [0, 1): gates of a '
                'place sum to 1. Change `threshold` of the neck.'
            )
        if top_k is not None and not 1 <= top_k <= num_streams:
            raise ValueError(
                f'top_k={top_k}, expected None or 1 to num_streams={num_streams}. '
                'Change `top_k` of the neck.'
            )
        self.levels = ModuleList(
            GateLevel(dim, num_streams, hidden, mlp_ratio, threshold, top_k)
            for dim in self.in_channels
        )
        self.probe = MapProbe()
        self.last_gates: list[Tensor] = []
        segformer_init(self)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return one pyramid."""
        outs, gate_maps = [], []
        levels = zip(self.levels, self.read(inputs), strict=True)
        for level, (feats, valid) in levels:
            size = (feats[0].shape[2], feats[0].shape[3])
            flags = None if valid is None else [to_tokens(v) for v in valid]
            fused, gates = level([to_tokens(f) for f in feats], flags)
            outs.append(to_map(fused, size))
            gate_maps.append(to_map(gates.detach(), size))
        # Of an earlier pass they would mislead; a compiled pass keeps none.
        self.last_gates = [] if is_captured() else gate_maps
        if self.probe.is_watched:
            self.probe(
                [
                    ShownMap(f'level {i}: gate of {{{m}}}', gates[:, m], (0, 1))
                    for i, gates in enumerate(gate_maps)
                    for m in range(self.num_streams)
                ]
            )
        return tuple(outs)
