"""MMSFormer: one MiT per modality, fused after every stage.

Paper: MMSFormer: Multimodal Transformer for Material and Semantic Segmentation, IEEE
Open Journal of Signal Processing 2024, https://arxiv.org/abs/2309.04001. Official code:
https://github.com/CSIPlab/MMSFormer (Apache-2.0, with the line "for commercial use
contact the authors"; the ImageNet MiT weights from which it starts are NVIDIA's,
non-commercial).

The streams do not exchange: fused maps go to the decoder only. One modality alone is a
plain SegFormer, as in the official code.

Differences: a stream may read several modalities, a modality may have any number of
channels, invalid pixels are understood, any fusion can be put in, and the size of the
further encoders, MiT-B1 in the official code whatever the first one is, is a setting.
The numbers are those of the official code; what is faster about the fusion stands in
:mod:`mmseg_xmodal.models.fusion.mix_se`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.logging import print_log
from mmengine.model import ModuleList
from torch import Tensor

from mmseg_xmodal.registry import MODELS
from mmseg_xmodal.structures import ModalityLayout

from ..converters.initialiser import InitReport, initialise_streams
from ..converters.mit import convert_mit
from ..fusion import build_fusions
from ..layers.mit import MiTVariant, MixTransformer, NormEps, mit_variant
from ..layers.streams import fuse_stages
from .base import StreamBackbone

_Variant = str | MiTVariant | Mapping[str, Any]


@MODELS.register_module()
class MMSFormer(StreamBackbone):
    """MiT streams of any number, fused by a linear layer, MixFFN and a channel gate.

    Args:
        modalities: The `modalities` dict of the config.
        variant: Size of the first stream: ``'mit_b0'`` to ``'mit_b5'``, or fields of
            :class:`MiTVariant`.
        extra_variant: Size of the other streams. Its channels are those of
            ``variant``: with ``'mit_b0'`` there, say so here too.
        streams: Stream name to its modalities; None = one stream per modality.
        fusion: Config, or one per stage; None = :class:`MixSEFusion`, or none at all
            for one stream.
        drop_path_rate: Of the last block of each stream.
        norm_eps: Fields of :class:`NormEps`; None = the published 1e-5 everywhere.
        placeholder: What stands at invalid pixels, see :class:`StreamInput`.
        pretrained: ImageNet MiT weights for the streams of size ``variant``: a path, or
            ``dict(checkpoint=..., first_conv='sum')``, see
            :func:`initialise_streams`.
        extra_pretrained: The same for the other streams, where their size differs.
            Without it they are not pretrained, and the log says so.
        init_cfg: As in mmengine; excludes ``pretrained``.

    Shape:
        - input: (B, C, H, W), see :meth:`ModalityLayout.split`.
        - output: four maps (B, embed_dims[i], H / 4 / 2**i, W / 4 / 2**i), rounded up.

    Raises:
        ValueError: If the variants, the streams, the fusion or the weights do not fit.
    """

    def __init__(
        self,
        modalities: ModalityLayout | Mapping[str, Mapping[str, Any]],
        variant: _Variant = 'mit_b2',
        extra_variant: _Variant = 'mit_b1',
        streams: Mapping[str, Sequence[str]] | None = None,
        fusion: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        drop_path_rate: float = 0.1,
        norm_eps: NormEps | dict | None = None,
        placeholder: str | None = None,
        pretrained: str | Mapping[str, Any] | None = None,
        extra_pretrained: str | Mapping[str, Any] | None = None,
        init_cfg: dict | list | None = None,
    ) -> None:
        if init_cfg is not None and (pretrained or extra_pretrained):
            raise ValueError(
                f'MMSFormer got init_cfg={init_cfg}, pretrained={pretrained} and '
                f'extra_pretrained={extra_pretrained}, expected init_cfg alone or none '
                'of it. Take one out of the backbone config.'
            )
        super().__init__(modalities, streams, placeholder, pretrained, init_cfg)
        self.sizes = [mit_variant(variant)]
        self.sizes += [mit_variant(extra_variant)] * (len(self.input.names) - 1)
        dims = self.sizes[0].embed_dims
        if any(size.embed_dims != dims for size in self.sizes):
            raise ValueError(
                f'variant={variant!r} has the channels {dims}, '
                f'extra_variant={extra_variant!r} {self.sizes[-1].embed_dims}, '
                'expected equal ones. Set extra_variant of the backbone to '
                f'{variant!r}.'
            )
        self.extra_pretrained = extra_pretrained
        eps = NormEps(1e-5, 1e-5, 1e-5, 1e-5) if norm_eps is None else norm_eps
        self.streams = ModuleList(
            MixTransformer(size, channels, drop_path_rate=drop_path_rate, norm_eps=eps)
            for size, channels in zip(self.sizes, self.input.channels, strict=True)
        )
        self.embed_dims = tuple(dims)
        self.fusions = ModuleList()
        if fusion is None and len(self.streams) > 1:
            fusion = dict(type='mmseg_xmodal.MixSEFusion')
        if fusion is not None:
            self.fusions = build_fusions(fusion, dims, len(self.streams))

    def init_weights(self) -> None:
        """SegFormer's initialisation, then the pretrained weights, if any."""
        super().init_weights()
        streams = dict(zip(self.input.names, self.streams, strict=True))
        alike = [size == self.sizes[0] for size in self.sizes]
        if self.extra_pretrained is not None:
            alike = [i == 0 for i in range(len(alike))]
        first = {n: s for (n, s), a in zip(streams.items(), alike, strict=True) if a}
        extra = {n: s for n, s in streams.items() if n not in first}
        for group, pretrained in (
            (first, self.pretrained),
            (extra, self.extra_pretrained),
        ):
            if pretrained is not None and group:
                report = initialise_streams(group, pretrained, convert=convert_mit)
                self.init_report = _join(self.init_report, report)
        if self.init_report is not None:
            left = [n for n in streams if n not in self.init_report.loaded]
            if left:
                print_log(
                    f'The streams {left} of MMSFormer are not pretrained; '
                    'extra_pretrained of the backbone gives weights to them.',
                    logger='current',
                )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the fused map of every stage."""
        inputs, valid = self.input(x)
        if not self.fusions:
            return self.streams[0](inputs[0])
        walkers = [
            stream.forward_stages(values)
            for stream, values in zip(self.streams, inputs, strict=True)
        ]
        return fuse_stages(walkers, self.fusions, valid)


def _join(first: InitReport | None, second: InitReport) -> InitReport:
    """One report of two initialisations."""
    if first is None:
        return second
    return dataclasses.replace(
        first,
        checkpoint=f'{first.checkpoint} and {second.checkpoint}',
        loaded=first.loaded | second.loaded,
        skipped=(*first.skipped, *second.skipped),
        adapted=first.adapted | second.adapted,
        new=(*first.new, *second.new),
    )
