"""TokenFusion: where one stream has nothing to say, it takes the other stream's token.

Paper: Multimodal Token Fusion for Vision Transformers, 2022,
https://arxiv.org/abs/2204.08721. Official code: https://github.com/yikaiw/TokenFusion,
which states no licence: it was not opened. Written from the paper.

Both streams go through the same MiT with LayerNorms of their own. In every block a
small network gives each token a score in (0, 1), which scales what attention and MLP
read; the L1 norm of the scores is part of the loss. After the block, tokens whose score
is below a threshold are replaced by those of the other stream at the same place.

There is no recorded number of the official code to compare with: parity is not proved,
and official checkpoints cannot be converted. Chosen here, because the paper leaves it
open or because it states it for other encoders: the score network (LayerNorm of each
stream, two layers with C / 4 hidden channels that the streams share, a sigmoid, which
is a softmax over a pair), its start near 1, that scores scale the normed tokens (before
a LayerNorm they would cancel) of attention and MLP alike, that every block exchanges
(both streams at once, after its MLP), that the L1 norm is a sum over tokens, blocks and
streams and a mean over samples, and eps 1e-6. The paper's residual positional alignment
has nothing to align: a MiT has no position embeddings.

Further: a stream may have one channel (it counts as that channel three times), and a
token that is wholly invalid is always replaced and never given away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import ModuleList
from torch import Tensor, nn

from mmseg_xmodal.registry import MODELS
from mmseg_xmodal.structures import ModalityLayout

from ..converters.initialiser import initialise_streams
from ..converters.shared_mit import convert_shared_mit
from ..layers.initialisation import segformer_init
from ..layers.mit import MiTVariant
from ..layers.shared_mit import SharedBlock, SharedMixTransformer, Size, StreamNorm
from ..layers.streams import StreamInput
from ..layers.tokens import to_map, to_tokens
from .base import StreamBackbone

# sigmoid(2) = 0.88: pretrained blocks start nearly as they were.
_FIRST_LOGIT = 2.0


class ScoreNet(nn.Module):
    """Give each token of two streams a score.

    Args:
        dim: Channels C.
        eps: Of the LayerNorms, one per stream.
    """

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.norm = StreamNorm(2, dim, eps)
        self.fc1 = nn.Linear(dim, max(dim // 4, 1))
        self.fc2 = nn.Linear(max(dim // 4, 1), 1)

    def init_weights(self) -> None:
        """SegFormer's initialisation, with scores near 1."""
        segformer_init(self)
        nn.init.constant_(self.fc2.bias, _FIRST_LOGIT)

    def forward(self, x: Tensor) -> Tensor:
        """Score the tokens; streams one after the other in the batch.

        Shape:
            - x: (2B, N, C)
            - output: (2B, N, 1), in (0, 1)
        """
        return self.fc2(F.gelu(self.fc1(self.norm(x)))).sigmoid()


def exchange(x: Tensor, takes: Tensor) -> Tensor:
    """Replace tokens by the other stream's, in both streams at once.

    Args:
        x: Tokens, streams one after the other in the batch.
        takes: Which tokens are replaced.

    Shape:
        - x: (2B, N, C), takes: (2B, N, 1), output: as ``x``
    """
    (first, second), (take1, take2) = x.chunk(2), takes.chunk(2)
    return torch.cat(
        [torch.where(take1, second, first), torch.where(take2, first, second)]
    )


@MODELS.register_module()
class TokenFusion(StreamBackbone):
    """Two streams through one MiT, which exchange tokens after every block.

    A map of the output holds both streams, the first one's channels first: mmseg's
    heads and necks read it as it is, :class:`TokenFusionHead` takes the streams apart.
    The L1 norm of the scores travels as a fifth output to the head that adds it to the
    loss: so nothing is left behind in the module, whatever wraps it.

    Args:
        modalities: The `modalities` dict of the config.
        variant: ``'mit_b0'`` to ``'mit_b5'``, or fields of :class:`MiTVariant`.
        streams: Stream name to its modalities; None = one stream per modality. Each
            of the two has 3 channels or 1.
        threshold: Tokens with a lower score are replaced.
        score_norm: Append the L1 norm of the scores to the outputs. Heads that read
            levels by their number (``in_index=[0, 1, 2, 3]``) do not see it.
        drop_path_rate: Of the last block.
        norm_eps: Of every LayerNorm.
        placeholder: What stands at invalid pixels, see :class:`StreamInput`.
        pretrained: ImageNet MiT weights: a path, or ``dict(checkpoint=...)``. The
            LayerNorms of both streams start from the same ones.
        init_cfg: As in mmengine; excludes ``pretrained``.

    Shape:
        - input: (B, C, H, W), see :meth:`ModalityLayout.split`.
        - output: four maps (B, 2 * embed_dims[i], H / 4 / 2**i, W / 4 / 2**i), rounded
          up; with ``score_norm`` also (B, 1, 1, 1), the sum of all scores of a sample.

    Raises:
        ValueError: If the variant, the streams or the threshold do not fit.
    """

    def __init__(
        self,
        modalities: ModalityLayout | Mapping[str, Mapping[str, Any]],
        variant: str | MiTVariant | Mapping[str, Any] = 'mit_b3',
        streams: Mapping[str, Sequence[str]] | None = None,
        threshold: float = 0.02,
        score_norm: bool = True,
        drop_path_rate: float = 0.1,
        norm_eps: float = 1e-6,
        placeholder: str | None = None,
        pretrained: str | Mapping[str, Any] | None = None,
        init_cfg: dict | list | None = None,
    ) -> None:
        if not 0 <= threshold < 1:
            raise ValueError(
                f'TokenFusion got threshold={threshold}, expected a number in [0, 1): '
                'scores lie in (0, 1). Change `threshold` of the backbone.'
            )
        super().__init__(modalities, streams, placeholder, pretrained, init_cfg)
        self.variant = variant
        self.threshold = threshold
        self.score_norm = score_norm
        _check_streams(self.input)
        self.encoder = SharedMixTransformer(
            variant, drop_path_rate=drop_path_rate, norm_eps=norm_eps
        )
        self.embed_dims = self.encoder.embed_dims
        self.scores: Any = ModuleList(
            ModuleList(ScoreNet(dim, norm_eps) for _ in range(depth))
            for dim, depth in zip(self.embed_dims, self.encoder.depths, strict=True)
        )

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of the output maps, both streams together."""
        return tuple(2 * dim for dim in self.embed_dims)

    def init_weights(self) -> None:
        """SegFormer's initialisation, then the pretrained weights, if any."""
        super().init_weights()
        if self.pretrained is not None:
            self.init_report = initialise_streams(
                {'+'.join(self.input.names): self.encoder},
                self.pretrained,
                convert=convert_shared_mit,
            )

    def _block(
        self, block: SharedBlock, x: Tensor, size: Size, score: Tensor
    ) -> Tensor:
        """One block of the encoder that reads scaled tokens; (2B, N, C) to the same."""
        out = block.attn.proj(block.attn(block.norm1(x) * score, size))
        x = x + block.drop_path(out)
        return x + block.drop_path(block.mlp(block.norm2(x) * score, size))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of both streams, concatenated, and the norm of the scores."""
        parts, valid = self.input(x)
        outs: list[Tensor] = []
        # Sums over all tokens: half precision would not do.
        dtype = torch.promote_types(x.dtype, torch.float32)
        total = x.new_zeros(len(x), dtype=dtype)
        for stage, nets in zip(self.encoder.stages, self.scores, strict=True):
            tokens, size = stage.patch_embed(parts)
            if valid is not None:
                seen = _seen(valid, size)
                partner_seen = seen.roll(len(x), 0)
                tokens = exchange(tokens, partner_seen & ~seen)
            for block, net in zip(stage.blocks, nets, strict=True):
                score = net(tokens)
                tokens = self._block(block, tokens, size, score)
                takes = score < self.threshold
                if valid is not None:
                    takes = partner_seen & (takes | ~seen)
                    score = score * seen
                tokens = exchange(tokens, takes)
                total = total + score.sum((1, 2), dtype=dtype).view(2, -1).sum(0)
            normed = [n(t) for n, t in zip(stage.norm, tokens.chunk(2), strict=True)]
            parts = [to_map(n, size) for n in normed]
            outs.append(to_map(torch.cat(normed, 2), size))
        if self.score_norm:
            outs.append(total[:, None, None, None])
        return tuple(outs)


def _seen(valid: list[Tensor], size: Size) -> Tensor:
    """Tokens of which a stream sees anything: (2B, N, 1), bool."""
    pooled = [to_tokens(F.adaptive_avg_pool2d(v, size)) for v in valid]
    return torch.cat(pooled) > 0


def _check_streams(inputs: StreamInput) -> None:
    if len(inputs.names) != 2:
        raise ValueError(
            f'TokenFusion has exactly 2 streams, got {len(inputs.names)}: '
            f"{list(inputs.names)}. Choose two with streams=dict(rgb=['rgb'], "
            "depth=['depth']) in the backbone, or use mmseg_xmodal.CMNeXt."
        )
    for name, channels in zip(inputs.names, inputs.channels, strict=True):
        if channels not in (1, 3):
            raise ValueError(
                f'TokenFusion reads {channels} channels in stream {name!r} '
                f'({inputs.describe(name)}), expected 3 or 1: both streams share the '
                'first convolution. Change `streams` of the backbone, or use '
                'mmseg_xmodal.CMX, whose streams have weights of their own.'
            )
