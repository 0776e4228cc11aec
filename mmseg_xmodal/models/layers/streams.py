"""Streams: what a multi-modal backbone reads, and how its streams meet.

A stream reads one or several modalities. After each stage a fusion module gets the maps
of all streams; it returns the maps with which the streams go on, and the fused map for
the decoder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmseg_xmodal.structures import ModalityLayout

from .staged import Walker, advance

_PLACEHOLDERS = (None, 'zero', 'learned')


class StreamInput(nn.Module):
    """Split the model's input into streams, and their validity.

    Args:
        modalities: The `modalities` dict of the config, or its layout.
        streams: Stream name to the modalities that it reads, in channel order. None =
            one stream per modality. Streams stand in the order of the first modality
            that each reads, in the layout.
        placeholder: What stands at invalid pixels: None = what the preprocessor put
            there, ``'zero'``, or ``'learned'`` (one value per channel, starting at 0).
            The last two need validity channels.

    Raises:
        ValueError: If a stream is empty or names an unknown modality, or the
            placeholder is unknown.
    """

    def __init__(
        self,
        modalities: ModalityLayout
        | Mapping[str, Mapping[str, Any]]
        | Sequence[Mapping[str, Any]],
        streams: Mapping[str, Sequence[str]] | None = None,
        placeholder: str | None = None,
    ) -> None:
        super().__init__()
        if placeholder not in _PLACEHOLDERS:
            raise ValueError(
                f'placeholder={placeholder!r}, expected one of {_PLACEHOLDERS}. '
                'Change `placeholder` of the backbone.'
            )
        self.layout = ModalityLayout.build(modalities)
        chosen = streams or {name: [name] for name in self.layout.names}
        for stream, names in chosen.items():
            unknown = [name for name in names if name not in self.layout]
            if isinstance(names, str) or not names or unknown:
                raise ValueError(
                    f'streams[{stream!r}] is {names!r}, expected a list of some of '
                    f'{list(self.layout.names)}. Change `streams` of the backbone.'
                )
        # By channel position, not by the order of the dict: mmengine sorts the keys of
        # the configs that it writes, and a checkpoint must fit them too.
        position = {name: i for i, name in enumerate(self.layout.names)}
        self.streams = {
            stream: tuple(names)
            for stream, names in sorted(
                chosen.items(), key=lambda item: (position[item[1][0]], item[0])
            )
        }
        self.placeholder = placeholder
        self.values = nn.ParameterDict()
        if placeholder == 'learned':
            for name in {n: None for names in self.streams.values() for n in names}:
                value = torch.zeros(1, self.layout[name].channels, 1, 1)
                self.values[name] = nn.Parameter(value)

    @property
    def names(self) -> tuple[str, ...]:
        """Stream names in order."""
        return tuple(self.streams)

    @property
    def channels(self) -> tuple[int, ...]:
        """Input channels of each stream."""
        return tuple(
            sum(self.layout[name].channels for name in names)
            for names in self.streams.values()
        )

    def describe(self, stream: str) -> str:
        """Say in words what a stream reads, for messages."""
        names = self.streams[stream]
        parts = [f'{name}: {self.layout[name].channels}' for name in names]
        return f'stream {stream!r} reads modalities {{{", ".join(parts)}}}'

    def forward(self, x: Tensor) -> tuple[list[Tensor], list[Tensor] | None]:
        """Split the stacked input.

        A stream of several modalities is valid where any of them is.

        Returns:
            One input per stream, and one validity per stream, or None when ``x`` has
            no validity channels.

        Shape:
            - x: (B, C, H, W), see :meth:`ModalityLayout.split`.
            - inputs: (B, channels[i], H, W) each.
            - validity: (B, 1, H, W) each, in [0, 1].

        Raises:
            ValueError: If the channels do not fit the layout, or there is a
                placeholder but no validity.
        """
        values, valid = self.layout.split(x)
        if self.placeholder is not None:
            values = self._fill(values, valid)
        inputs = [_join([values[n] for n in names]) for names in self.streams.values()]
        if valid is None:
            return inputs, None
        return inputs, [
            _join([valid[n] for n in names]).amax(1, keepdim=True)
            for names in self.streams.values()
        ]

    def _fill(
        self, values: dict[str, Tensor], valid: dict[str, Tensor] | None
    ) -> dict[str, Tensor]:
        if valid is None:
            raise ValueError(
                f'placeholder={self.placeholder!r} replaces invalid pixels, but the '
                'input has no validity channels. Set validity=True in '
                'data_preprocessor (mmseg_xmodal.ModalityPreprocessor), or '
                'placeholder=None in the backbone.'
            )
        filled = {name: values[name] * valid[name] for name in values}
        for name, value in self.values.items():
            filled[name] = filled[name] + value * (1 - valid[name])
        return filled


def _join(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def _pool(valid: list[Tensor] | None, like: Tensor) -> list[Tensor] | None:
    if valid is None:
        return None
    size = (like.shape[2], like.shape[3])
    return [F.adaptive_avg_pool2d(v, size).to(like.dtype) for v in valid]


def _same_size(feats: Sequence[Tensor], level: int) -> None:
    shapes = [tuple(f.shape) for f in feats]
    if len(set(shapes)) > 1:
        raise ValueError(
            f'Level {level} has the shapes {shapes} in the streams, expected equal '
            'ones. Use backbones with the same strides and widths for all streams.'
        )


def fuse_stages(
    walkers: Sequence[Walker],
    fusions: Sequence[Callable[..., tuple[list[Tensor], Tensor]]],
    valid: list[Tensor] | None,
) -> tuple[Tensor, ...]:
    """Run the streams in step and fuse after each stage.

    Args:
        walkers: One per stream, see :mod:`.staged`.
        fusions: One per level.
        valid: Validity of each stream at input resolution, or None.

    Returns:
        The fused map of each level.

    Raises:
        ValueError: If the maps of one level differ in shape.
    """
    fused_maps = []
    sent: list[Tensor | None] = [None] * len(walkers)
    for level, fusion in enumerate(fusions):
        feats = []
        for walker, replacement in zip(walkers, sent, strict=True):
            feat = advance(walker, replacement)
            if feat is None:
                raise ValueError(
                    f'A backbone has {level} levels, but there are {len(fusions)} '
                    'fusion modules. Change `fusion` or the out_indices.'
                )
            feats.append(feat)
        _same_size(feats, level)
        exchanged, fused = fusion(feats, _pool(valid, feats[0]))
        sent = list(exchanged)
        fused_maps.append(fused)
    for walker in walkers:
        walker.close()
    return tuple(fused_maps)


def fuse_levels(
    levels: Sequence[Sequence[Tensor]],
    fusions: Sequence[Callable[..., tuple[list[Tensor], Tensor]]],
    valid: list[Tensor] | None,
) -> tuple[Tensor, ...]:
    """Fuse the finished levels of all streams, without exchange.

    Args:
        levels: For each stream its maps, as a plain forward gives them.
        fusions: One per level.
        valid: Validity of each stream at input resolution, or None.

    Returns:
        The fused map of each level.

    Raises:
        ValueError: If the maps of one level differ in shape.
    """
    fused_maps = []
    for level, (fusion, feats) in enumerate(
        zip(fusions, zip(*levels, strict=True), strict=True)
    ):
        _same_size(feats, level)
        fused_maps.append(fusion(list(feats), _pool(valid, feats[0]))[1])
    return tuple(fused_maps)
