"""Adapters through which streams that share a transformer talk to each other.

Paper: StitchFusion, 2024, https://arxiv.org/abs/2408.01343. Official code:
https://github.com/LiBingyu01/StitchFusion-StitchFusion-Weaving-Any-Visual-Modalities-to-Enhance-Multimodal-Semantic-Segmentation
(Apache-2.0, with the line "for commercial use contact the authors").

Differences that change no number (exact algebra): ``down`` and ``mid`` of an adapter,
between which there is no activation, are one linear map, and those of all messages of
one stream are one product; the sender is normalised once, not anew for every receiver;
the messages that a stream gets between its turns are added as one product.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .drop_path import DropPath
from .residual import add_branch
from .slices import is_plain

# Who shares an adapter: the sender and the receiver (numbered from 1) to its name.
SHARING = {
    'pair': lambda i, j: f'{min(i, j)}_{max(i, j)}',
    'direction': lambda i, j: f'{i}_{j}',
    'all': lambda i, j: 'all',
}


class Adapter(nn.Module):
    """Bottleneck: down, mid, GELU, dropout, up.

    Args:
        channels: Channels C of the tokens.
        rank: Width r of the bottleneck.
    """

    def __init__(self, channels: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Linear(channels, rank)
        self.mid = nn.Linear(rank, rank)
        self.up = nn.Linear(rank, channels)

    def forward(self, x: Tensor, dropout: nn.Module) -> Tensor:
        """(B, N, C) to (B, N, C)."""
        return self.up(dropout(F.gelu(self.mid(self.down(x)))))

    def entry(self) -> tuple[Tensor, Tensor]:
        """``mid`` after ``down`` as one map: (r, C) and (r,); small, so in float32."""
        with torch.autocast(self.mid.weight.device.type, enabled=False):
            bias = self.mid.weight @ self.down.bias + self.mid.bias
            return self.mid.weight @ self.down.weight, bias


class MultiAdapter(nn.Module):
    """Every stream sends a message to every other one, in turn.

    Args:
        channels: Channels C of the tokens.
        num_streams: Streams M.
        sharing: Key of :data:`SHARING`.
        rank: Width of the adapters.
        dropout: In the bottleneck.
    """

    def __init__(
        self, channels: int, num_streams: int, sharing: str, rank: int, dropout: float
    ) -> None:
        super().__init__()
        self.num_streams = num_streams
        self.dropout = nn.Dropout(dropout)
        numbers = range(num_streams)
        self.names = {
            (i, j): SHARING[sharing](i + 1, j + 1)
            for i in numbers
            for j in numbers
            if i != j
        }
        self.adapters = nn.ModuleDict(
            {name: Adapter(channels, rank) for name in sorted(set(self.names.values()))}
        )

    def forward(
        self,
        x: Tensor,
        norm: nn.Module,
        drop_path: DropPath,
        valid: Tensor | None = None,
    ) -> Tensor:
        """Exchange the messages.

        Args:
            x: Tokens of all streams, stream by stream; may be changed in place.
            norm: Applied to what is sent.
            drop_path: Applied to each message.
            valid: Where a stream may send, or None for everywhere.

        Shape:
            - x: (M * B, N, C)
            - valid: (M * B, N, 1), in [0, 1]
            - output: as ``x``
        """
        if self.num_streams == 1:
            return x
        adapters: Any = self.adapters
        if not all(is_plain(a.down, a.mid, a.up) for a in adapters.values()):
            return self._published(x, norm, drop_path, valid)
        entries = {name: adapter.entry() for name, adapter in adapters.items()}
        streams = list(x.chunk(self.num_streams))
        sent: dict[tuple[int, int], tuple[Tensor, Tensor | None]] = {}
        for i in range(self.num_streams):
            # What the streams before it have sent, it passes on.
            streams[i] = self._receive(streams[i], sent, range(i), i)
            weight = None if valid is None else valid.chunk(self.num_streams)[i]
            sent.update(self._send(norm(streams[i]), entries, i, drop_path, weight))
        for j in range(self.num_streams - 1):
            later = range(j + 1, self.num_streams)
            streams[j] = self._receive(streams[j], sent, later, j)
        # Without gradients the streams were changed in place: they are views of x.
        return torch.cat(streams) if torch.is_grad_enabled() else x

    def _published(
        self, x: Tensor, norm: nn.Module, drop_path: DropPath, valid: Tensor | None
    ) -> Tensor:
        """One message at a time, for layers that are more than their weights (LoRA)."""
        streams = list(x.chunk(self.num_streams))
        for (i, j), name in self.names.items():
            message = self.adapters[name](norm(streams[i]), self.dropout)
            if valid is not None:
                message = message * valid.chunk(self.num_streams)[i]
            streams[j] = streams[j] + drop_path(message)
        return torch.cat(streams)

    def _send(
        self,
        x: Tensor,
        entries: Mapping[str, tuple[Tensor, Tensor]],
        sender: int,
        drop_path: DropPath,
        valid: Tensor | None,
    ) -> dict[tuple[int, int], tuple[Tensor, Tensor | None]]:
        """Hidden layer and weight of each message of one stream."""
        pairs = [pair for pair in self.names if pair[0] == sender]
        chosen = [entries[self.names[pair]] for pair in pairs]
        weight = torch.cat([weight for weight, _ in chosen])
        bias = torch.cat([bias for _, bias in chosen])
        hidden = self.dropout(F.gelu(F.linear(x, weight, bias)))
        weights: list[Tensor | None] = [valid] * len(pairs)
        if self.training and drop_path.rate > 0:
            whole = x.new_ones(len(x), 1, 1) if valid is None else valid
            weights = [drop_path(whole) for _ in pairs]
        parts = zip(hidden.chunk(len(pairs), 2), weights, strict=True)
        return dict(zip(pairs, parts, strict=True))

    def _receive(
        self,
        x: Tensor,
        sent: Mapping[tuple[int, int], tuple[Tensor, Tensor | None]],
        senders: Sequence[int],
        receiver: int,
    ) -> Tensor:
        """Add the messages of some streams, as one product."""
        if not senders:
            return x
        ups: list[Any] = [self.adapters[self.names[i, receiver]].up for i in senders]
        parts, weights = zip(*(sent[i, receiver] for i in senders), strict=True)
        matrix = torch.cat([up.weight for up in ups], 1)
        biases = torch.stack([up.bias for up in ups], 1)
        if weights[0] is None:
            message = F.linear(torch.cat(parts, 2), matrix, biases.sum(1))
        else:
            # A weight scales a message with its bias: the weights are further inputs.
            scaled = [p * w for p, w in zip(parts, weights, strict=True)]
            columns = [w.expand(-1, x.shape[1], -1) for w in weights]
            message = F.linear(
                torch.cat([*scaled, *columns], 2), torch.cat([matrix, biases], 1)
            )
        return add_branch(x, message)
