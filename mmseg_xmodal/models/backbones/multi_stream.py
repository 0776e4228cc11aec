"""Any registered backbone per stream, any registered fusion per stage."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseModule, ModuleList
from torch import Tensor, nn

from mmseg_xmodal.registry import MODELS
from mmseg_xmodal.structures import ModalityLayout

from ..converters.encoders import initialise_encoders
from ..converters.initialiser import InitReport, initialise_streams, keep_layout
from ..converters.mit import convert_mit
from ..fusion import build_fusions
from ..layers.encoder_stream import EncoderStream
from ..layers.first_conv import find_first_conv, replace_first_conv
from ..layers.mit import MixTransformer
from ..layers.staged import staged_forward
from ..layers.streams import StreamInput, fuse_levels, fuse_stages

# Large enough for a backbone of stride 32 and windows of 12.
_PROBE_SIZE = 64


def _resolve(kind: Any) -> Any:
    if not isinstance(kind, str):
        return kind
    with MODELS.switch_scope_and_registry(None) as registry:
        return registry.get(kind)


def _takes_in_channels(kind: Any) -> bool:
    """Whether the constructor knows ``in_channels``, directly or through kwargs."""
    if not inspect.isclass(kind):
        return False
    for base in kind.__mro__:
        if '__init__' not in base.__dict__:
            continue
        parameters = inspect.signature(base.__dict__['__init__']).parameters
        if 'in_channels' in parameters:
            return True
        kinds = {p.kind for p in parameters.values()}
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            return False
    return False


def _build_backbone(cfg: Mapping[str, Any], channels: int, reads: str) -> nn.Module:
    """Build one backbone whose first convolution takes ``channels`` channels."""
    stated = cfg.get('in_channels', channels)
    if stated != channels:
        raise ValueError(
            f'The backbone config says in_channels={stated}, but its {reads}, '
            f'{channels} channels in all. Remove in_channels from the backbone config '
            '(it is set from the layout), or change `modalities` or `streams`.'
        )
    cfg = dict(cfg)
    if _takes_in_channels(_resolve(cfg.get('type'))):
        cfg['in_channels'] = channels
    backbone = MODELS.build(cfg)
    if find_first_conv(backbone)[1].in_channels != channels:
        replace_first_conv(backbone, channels)
    return backbone


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


@torch.no_grad()
def _probe(backbone: nn.Module, channels: int, reads: str) -> tuple[int, ...]:
    """Find the channels of the output maps.

    By the property ``out_channels`` where the class declares one, else by one small
    forward in eval mode, at the size that a backbone of fixed size states.
    """
    is_declared = isinstance(getattr(type(backbone), 'out_channels', None), property)
    declared: Any = backbone.out_channels if is_declared else None
    if isinstance(declared, tuple | list):
        return tuple(declared)
    was_training = backbone.training
    backbone.eval()
    device = next(backbone.parameters()).device
    stated = getattr(backbone, 'img_size', None)
    sizes = [(_PROBE_SIZE, _PROBE_SIZE), *([_pair(stated)] if stated else [])]
    for size in sizes:
        try:
            outs = backbone(torch.zeros(1, channels, *size, device=device))
            break
        except RuntimeError as error:
            if size == sizes[-1]:
                raise ValueError(
                    f'{type(backbone).__name__} fails on a zero input (1, {channels}, '
                    f'{size[0]}, {size[1]}): {error}. Its {reads}, {channels} channels '
                    'in all. Use a backbone with one input convolution, or change '
                    '`streams`.'
                ) from error
    backbone.train(was_training)
    if isinstance(outs, Tensor):
        outs = (outs,)
    return tuple(out.shape[1] for out in outs)


@MODELS.register_module()
class MultiStreamBackbone(BaseModule):
    """One backbone per stream, fused at every level.

    With ``exchange`` the streams go on from what the fusion hands back after each
    stage; that needs a backbone that can be run stage by stage (mmseg's ResNet family,
    MobileNetV2, MixVisionTransformer, SwinTransformer, mmpretrain's ConvNeXt, and
    ours). Without it each level is fused after a plain forward of any backbone.

    Args:
        modalities: The `modalities` dict of the config.
        backbone: Config of a registered backbone for all streams, or a dict from
            stream name to config. ``in_channels`` is set from the layout, also where
            the constructor has no such argument.
        fusion: Config, or one per level; None = :class:`MeanFusion`.
        streams: Stream name to its modalities; None = one stream per modality.
        shared: All streams use the same weights; they need equal input channels.
        exchange: Fuse between the stages; else after them.
        placeholder: What stands at invalid pixels, see :class:`StreamInput`.
        pretrained: Weights for the backbones of all streams: a path, or
            ``dict(checkpoint=..., first_conv='sum')``, see
            :func:`initialise_streams`. In the layout of the backbone; for our MiT any
            MiT layout, for ``TimmStream`` and ``HFStream`` as they say.
        init_cfg: As in mmengine.

    Shape:
        - input: (B, C, H, W), see :meth:`ModalityLayout.split`.
        - output: one map per level of the backbone.

    Raises:
        ValueError: If streams, channels, weights sharing or exchange do not fit.
    """

    def __init__(
        self,
        modalities: ModalityLayout | Mapping[str, Mapping[str, Any]],
        backbone: Mapping[str, Any],
        fusion: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        streams: Mapping[str, Sequence[str]] | None = None,
        shared: bool = False,
        exchange: bool = True,
        placeholder: str | None = None,
        pretrained: str | Mapping[str, Any] | None = None,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.shared = shared
        self.exchange = exchange
        self.pretrained = pretrained
        self.init_report: InitReport | None = None
        self.input = StreamInput(modalities, streams, placeholder)
        names, channels = self.input.names, self.input.channels
        cfgs = self._configs(backbone)
        if shared and len(set(channels)) > 1:
            raise ValueError(
                f'shared=True, but the streams {names} have {channels} input '
                'channels, expected equal ones. Set shared=False, or change `streams`.'
            )
        count = 1 if shared else len(names)
        self.streams = ModuleList(
            _build_backbone(cfgs[i], channels[i], self.input.describe(names[i]))
            for i in range(count)
        )
        if exchange:
            for stream in self.streams:
                staged_forward(stream)
        widths = [
            _probe(stream, channels[i], self.input.describe(names[i]))
            for i, stream in enumerate(self.streams)
        ]
        if len(set(widths)) > 1:
            raise ValueError(
                f'The levels of the streams have the channels {widths}, expected equal '
                'ones. Use backbones of the same widths for all streams.'
            )
        self.embed_dims = widths[0]
        fusion = fusion or dict(type='mmseg_xmodal.MeanFusion')
        self.fusions = build_fusions(fusion, self.embed_dims, len(names))

    def _configs(self, backbone: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """One backbone config per stream."""
        names = self.input.names
        if 'type' in backbone:
            return [backbone] * len(names)
        if set(backbone) != set(names):
            raise ValueError(
                f'backbone has the keys {sorted(backbone)}, expected one config (with '
                f'`type`) or one per stream {list(names)}. Change `backbone`.'
            )
        if self.shared:
            raise ValueError(
                'shared=True uses one backbone for all streams, but `backbone` gives '
                'one config per stream. Give one config, or set shared=False.'
            )
        return [backbone[name] for name in names]

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of the output maps."""
        return self.embed_dims

    def _per_stream(self) -> list[nn.Module]:
        """The backbone of each stream; the same one for all when shared."""
        copies = len(self.input.names) if self.shared else 1
        return list(self.streams) * copies

    def init_weights(self) -> None:
        """Initialise every backbone by its own rule, then load ``pretrained``."""
        super().init_weights()
        if self.pretrained is None:
            return
        streams = dict(zip(self.input.names, self._per_stream(), strict=True))
        encoders = {n: s for n, s in streams.items() if isinstance(s, EncoderStream)}
        if len(encoders) == len(streams):
            self.init_report = initialise_encoders(encoders, self.pretrained)
            return
        ours = all(isinstance(s, MixTransformer) for s in self.streams)
        self.init_report = initialise_streams(
            streams, self.pretrained, convert_mit if ours else keep_layout
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the fused map of every level."""
        inputs, valid = self.input(x)
        pairs = list(zip(self._per_stream(), inputs, strict=True))
        if self.exchange:
            walkers = [staged_forward(stream)(values) for stream, values in pairs]
            return fuse_stages(walkers, self.fusions, valid)
        levels = []
        for stream, values in pairs:
            outs = stream(values)
            levels.append((outs,) if isinstance(outs, Tensor) else outs)
        return fuse_levels(levels, self.fusions, valid)
