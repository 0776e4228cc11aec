"""StitchFusion: one MiT for all modalities, stitched together by small adapters.

Paper: StitchFusion: Weaving Any Visual Modalities to Enhance Multimodal Semantic
Segmentation, 2024, https://arxiv.org/abs/2408.01343. Official code:
https://github.com/LiBingyu01/StitchFusion-StitchFusion-Weaving-Any-Visual-Modalities-to-Enhance-Multimodal-Semantic-Segmentation
(Apache-2.0, with the line "for commercial use contact the authors"; the ImageNet MiT
weights from which it starts are NVIDIA's, non-commercial).

The order of the modalities matters: they send their messages one after the other, and
what a later one sends already holds what it has received. Ours is the order of the
layout; give ``modalities`` as a list to choose another.

Differences that change no number: all modalities go through the trunk as one batch, and
see :mod:`mmseg_xmodal.models.layers.multi_adapter` and
:mod:`mmseg_xmodal.models.fusion.mix_se`. Further: a one-channel modality needs no
replicating on disk, and invalid pixels send nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmseg_xmodal.registry import MODELS
from mmseg_xmodal.structures import ModalityLayout

from ..converters.initialiser import initialise_streams
from ..converters.mit import convert_mit
from ..fusion import build_fusions
from ..layers.initialisation import segformer_init
from ..layers.mit import MiTVariant, MixTransformer, NormEps, mit_variant
from ..layers.multi_adapter import SHARING, MultiAdapter
from ..layers.residual import add_branch
from ..layers.tokens import to_map, to_tokens
from .base import StreamBackbone


@MODELS.register_module()
class StitchFusion(StreamBackbone):
    """A MiT shared by all streams, with adapters between them in every block.

    Each stream has three channels, or one, which is read as three equal ones.

    Args:
        modalities: The `modalities` dict of the config.
        variant: ``'mit_b0'`` to ``'mit_b5'``, or fields of :class:`MiTVariant`.
        streams: Stream name to its modalities; None = one stream per modality.
        fusion: Config, or one per stage; None = :class:`MixSEFusion`.
        sharing: Which messages share an adapter: ``'pair'`` = both directions between
            two streams (published), ``'direction'`` = none, ``'all'`` = all.
        rank: Width of the adapters.
        adapter_dropout: In the adapters.
        drop_path_rate: Of the last block.
        norm_eps: Fields of :class:`NormEps`; None = the published 1e-5 everywhere.
        placeholder: What stands at invalid pixels, see :class:`StreamInput`.
        pretrained: ImageNet MiT weights of the trunk: a path, or
            ``dict(checkpoint=...)``, see :func:`initialise_streams`.
        init_cfg: As in mmengine; excludes ``pretrained``.

    Shape:
        - input: (B, C, H, W), see :meth:`ModalityLayout.split`.
        - output: four maps (B, embed_dims[i], H / 4 / 2**i, W / 4 / 2**i), rounded up.

    Raises:
        ValueError: If the variant, the streams, ``sharing`` or the fusion do not fit.
    """

    def __init__(
        self,
        modalities: ModalityLayout | Mapping[str, Mapping[str, Any]],
        variant: str | MiTVariant | Mapping[str, Any] = 'mit_b2',
        streams: Mapping[str, Sequence[str]] | None = None,
        fusion: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        sharing: str = 'pair',
        rank: int = 8,
        adapter_dropout: float = 0.1,
        drop_path_rate: float = 0.1,
        norm_eps: NormEps | dict | None = None,
        placeholder: str | None = None,
        pretrained: str | Mapping[str, Any] | None = None,
        init_cfg: dict | list | None = None,
    ) -> None:
        if sharing not in SHARING:
            raise ValueError(
                f'sharing={sharing!r}, expected one of {tuple(SHARING)}. Change '
                '`sharing` of the backbone.'
            )
        super().__init__(modalities, streams, placeholder, pretrained, init_cfg)
        size = mit_variant(variant)
        self.variant = variant
        self.sharing = sharing
        self._check_channels()
        eps = NormEps(1e-5, 1e-5, 1e-5, 1e-5) if norm_eps is None else norm_eps
        self.trunk = MixTransformer(
            variant, 3, drop_path_rate=drop_path_rate, norm_eps=eps
        )
        count = len(self.input.names)
        # For each stage, for each block: after the attention, after the MLP.
        self.adapters = nn.ModuleList(
            nn.ModuleList(
                nn.ModuleDict(
                    {
                        place: MultiAdapter(dim, count, sharing, rank, adapter_dropout)
                        for place in ('attn', 'mlp')
                    }
                )
                for _ in range(depth)
            )
            for dim, depth in zip(size.embed_dims, size.depths, strict=True)
        )
        self.embed_dims = tuple(size.embed_dims)
        fusion = fusion or dict(type='mmseg_xmodal.MixSEFusion')
        self.fusions = build_fusions(fusion, size.embed_dims, count)

    def _check_channels(self) -> None:
        for name, channels in zip(self.input.names, self.input.channels, strict=True):
            if channels not in (1, 3):
                raise ValueError(
                    f'The {self.input.describe(name)}, {channels} channels in all; '
                    'StitchFusion shares one first convolution of 3 channels, expected '
                    '3 or 1. Change `streams` so that each has 3 channels or 1, or use '
                    'mmseg_xmodal.MMSFormer, whose streams read any number.'
                )

    def init_weights(self) -> None:
        """SegFormer's initialisation, then the pretrained weights, if any."""
        super().init_weights()
        if not self.init_cfg:
            segformer_init(self.adapters)
        if self.pretrained is not None:
            self.init_report = initialise_streams(
                {'trunk': self.trunk}, self.pretrained, convert=convert_mit
            )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the fused map of every stage."""
        inputs, valid = self.input(x)
        # Replicated: equal to the sum of the first convolution over its inputs.
        x = torch.cat([stream.expand(-1, 3, -1, -1) for stream in inputs])
        outs = []
        levels: Any = zip(self.trunk.stages, self.adapters, self.fusions, strict=True)
        for stage, places, fusion in levels:
            tokens, size = stage.patch_embed(x)
            pooled = None
            if valid is not None:
                pooled = F.adaptive_avg_pool2d(torch.cat(valid), size).to(tokens.dtype)
            seen = None if pooled is None else to_tokens(pooled)
            for block, adapters in zip(stage.blocks, places, strict=True):
                drop = block.drop_path
                tokens = add_branch(tokens, drop(block.attn(block.norm1(tokens), size)))
                tokens = adapters['attn'](tokens, block.norm1, drop, seen)
                tokens = add_branch(tokens, drop(block.mlp(block.norm2(tokens), size)))
                tokens = adapters['mlp'](tokens, block.norm2, drop, seen)
            x = to_map(stage.norm(tokens), size)
            feats = list(x.chunk(len(inputs)))
            parts = None if pooled is None else list(pooled.chunk(len(inputs)))
            sent, fused = fusion(feats, parts)
            if any(a is not b for a, b in zip(sent, feats, strict=True)):
                x = torch.cat(sent)
            outs.append(fused)
        return tuple(outs)
