"""N pyramids in one tuple of maps: how streams travel from the backbone to a neck.

``EncoderDecoder`` hands the backbone's tuple of maps to the neck. ``StackStreams``
writes the maps of all streams of a level one after the other, then one validity channel
per stream; a neck reads them back with :func:`split_streams`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def stack_streams(
    feats: Sequence[Tensor], valid: Sequence[Tensor] | None, validity: bool = True
) -> Tensor:
    """Concatenate the streams of one level, then their validities.

    Args:
        feats: Maps of the N streams.
        valid: Their validity; None = valid everywhere.
        validity: Whether the validity channels follow.

    Shape:
        - feats: (B, C, h, w) each.
        - valid: (B, 1, h, w) each, in [0, 1].
        - output: (B, N * C + N, h, w), or (B, N * C, h, w) without validity.
    """
    parts = list(feats)
    if validity:
        flags = valid if valid is not None else [f.new_ones(()) for f in feats]
        parts += [
            v.to(f.dtype).expand(len(f), 1, *f.shape[2:])
            for f, v in zip(feats, flags, strict=True)
        ]
    return torch.cat(parts, 1)


def split_streams(
    level: Tensor, channels: int, num_streams: int, validity: bool = True
) -> tuple[list[Tensor], list[Tensor] | None]:
    """Take one level apart again.

    Args:
        level: What :func:`stack_streams` made.
        channels: Channels C of each stream.
        num_streams: Number of streams N.
        validity: Whether validity channels are at the end.

    Returns:
        The maps, and their validity or None.

    Shape:
        - level: (B, N * C + N, h, w), or (B, N * C, h, w) without validity.
        - maps: (B, C, h, w) each.
        - validity: (B, 1, h, w) each, in [0, 1].

    Raises:
        ValueError: If the channels do not add up.
    """
    expected = num_streams * channels + num_streams * validity
    if level.ndim != 4 or level.shape[1] != expected:
        made = f'{num_streams} streams x {channels} channels'
        made += f' + {num_streams} validity channels' if validity else ''
        raise ValueError(
            f'A level has the shape {tuple(level.shape)}, expected (B, {expected}, h, '
            f'w): {made}. Set in_channels, num_streams and validity of the neck to '
            "what the backbone's fusion=dict(type='mmseg_xmodal.StackStreams', "
            'validity=...) writes.'
        )
    values = level[:, : num_streams * channels]
    flags = level[:, num_streams * channels :]
    return list(values.split(channels, 1)), (
        list(flags.split(1, 1)) if validity else None
    )


def without_missing(
    feats: Sequence[Tensor], valid: Sequence[Tensor] | None
) -> list[Tensor]:
    """Put zeros where a stream has no valid pixel, so that nothing there has a say.

    Shape:
        - feats: (B, C, h, w) each.
        - valid: (B, 1, h, w) each.
        - output: as ``feats``
    """
    if valid is None:
        return list(feats)
    return [torch.where(v > 0, f, 0) for f, v in zip(feats, valid, strict=True)]


def check_levels(
    neck: object, inputs: Sequence[Tensor], in_channels: Sequence[int]
) -> None:
    """Refuse another number of levels, or of channels, than the neck was built for.

    Args:
        neck: Whose name stands in the message.
        inputs: Maps of the levels.
        in_channels: Channels that each of them should have.

    Raises:
        ValueError: If levels or channels differ.
    """
    check_number_of_levels(neck, inputs, in_channels)
    for i, (level, channels) in enumerate(zip(inputs, in_channels, strict=True)):
        if level.ndim != 4 or level.shape[1] != channels:
            raise ValueError(
                f'{type(neck).__name__}: level {i} has the shape {tuple(level.shape)}, '
                f'expected (B, {channels}, h, w): in_channels={list(in_channels)}. Set '
                'in_channels of the neck to the channels that the backbone gives.'
            )


def check_number_of_levels(
    neck: object, inputs: Sequence[Tensor], in_channels: Sequence[int]
) -> None:
    """Refuse another number of levels than the neck was built for.

    Raises:
        ValueError: If the numbers differ.
    """
    if len(inputs) != len(in_channels):
        raise ValueError(
            f'{type(neck).__name__} got {len(inputs)} levels, but in_channels='
            f'{list(in_channels)} names {len(in_channels)}. Give one entry per map of '
            'the backbone (out_indices).'
        )


def per_level(name: str, value: object, levels: int) -> list:
    """Repeat a setting for all levels, or check a list of them.

    Args:
        name: Of the setting, for the message.
        value: One value, or a list or tuple with one per level.
        levels: Number of levels.

    Raises:
        ValueError: If the list has another length.
    """
    if not isinstance(value, list | tuple):
        return [value] * levels
    if len(value) != levels:
        raise ValueError(
            f'{name}={list(value)} has {len(value)} entries, expected one value or '
            f'{levels}, one per level. Change `{name}` of the neck.'
        )
    return list(value)


def check_counts(neck: object, **settings: object) -> None:
    """Refuse counts below 1, which would fail much later or do nothing.

    Args:
        neck: Whose name stands in the message.
        settings: A whole number each, or a list or tuple with one per level.

    Raises:
        ValueError: If one is below 1 or no whole number.
    """
    for name, value in settings.items():
        counts = value if isinstance(value, list | tuple) else [value]
        if not all(isinstance(count, int) and count >= 1 for count in counts):
            raise ValueError(
                f'{type(neck).__name__}: {name}={value!r}, expected whole numbers from '
                f'1. Change `{name}` of the neck.'
            )
