"""What necks for N pyramids share: their settings, and taking the levels apart."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.model import BaseModule
from torch import Tensor

from .stacked_levels import check_number_of_levels, split_streams, without_missing


class StackedNeck(BaseModule):
    """Base of the necks behind ``StackStreams``.

    Args:
        in_channels: Channels C of one stream, per level.
        num_streams: Number of streams N.
        validity: Whether the levels end with one validity channel per stream.
        init_cfg: As in mmengine.

    Raises:
        ValueError: If there is no stream.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_streams: int,
        validity: bool = True,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if num_streams < 1:
            raise ValueError(
                f'{type(self).__name__}: num_streams={num_streams}, expected 1 or '
                'more. Set num_streams of the neck to the streams of the backbone.'
            )
        self.in_channels = tuple(in_channels)
        self.num_streams = num_streams
        self.validity = validity

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of the output maps: those of one stream."""
        return self.in_channels

    def check_stream(self, argument: str, index: int | None) -> None:
        """Refuse the number of a stream that does not exist.

        Raises:
            ValueError: If it does not.
        """
        if index is not None and not 0 <= index < self.num_streams:
            raise ValueError(
                f'{type(self).__name__}: {argument}={index}, expected None or a '
                f'stream number from 0 to {self.num_streams - 1}. Streams stand in '
                f'the order of the backbone; change `{argument}` of the neck.'
            )

    def read(
        self, inputs: Sequence[Tensor]
    ) -> list[tuple[list[Tensor], list[Tensor] | None]]:
        """Streams and validity of each level; zeros where a stream has no valid pixel.

        Shape:
            - inputs: (B, N * C + N, h, w) each, or (B, N * C, h, w) without validity.

        Raises:
            ValueError: If levels or channels do not fit the settings.
        """
        check_number_of_levels(self, inputs, self.in_channels)
        levels = []
        for level, channels in zip(inputs, self.in_channels, strict=True):
            feats, valid = split_streams(
                level, channels, self.num_streams, self.validity
            )
            levels.append((without_missing(feats, valid), valid))
        return levels
