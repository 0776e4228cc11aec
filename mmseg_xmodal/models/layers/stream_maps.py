"""What the streams of a multi-modal backbone are before they meet."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from .noted_calls import note_calls

# Backbones whose fusion modules get the maps of all streams.
STREAM_BACKBONES = ('CMX', 'MultiStreamBackbone', 'MMSFormer', 'StitchFusion')


class StreamMaps(NamedTuple):
    """Maps of each stream, in the pass of a backbone.

    Args:
        feats: Stream to its levels, the largest first.
        valid: Stream to its validity at the first level, or None without validity.

    Shape:
        - feats: (B, C_i, h_i, w_i)
        - valid: (B, 1, h_0, w_0), in [0, 1]
    """

    feats: dict[str, list[Tensor]]
    valid: dict[str, Tensor] | None


def stream_names(backbone: Any) -> tuple[str, ...]:
    """Names of the streams whose maps :class:`StreamTap` can note.

    Raises:
        ValueError: If the backbone has no streams, or less than two.
    """
    who = type(backbone).__name__
    lacking = [n for n in ('input', 'fusions') if not hasattr(backbone, n)]
    if lacking:
        raise ValueError(
            f'The backbone {who} does not give the maps of each modality: it has no '
            f'{" and no ".join(lacking)}. Backbones that do: '
            f'{", ".join(f"mmseg_xmodal.{name}" for name in STREAM_BACKBONES)}.'
        )
    names = tuple(backbone.input.names)
    if len(names) < 2:
        raise ValueError(
            f'The backbone {who} has the streams {list(names)}, expected two or more: '
            'a second modality is missing. Add one to `modalities`, or a stream to '
            '`streams`.'
        )
    return names


class StreamTap:
    """Notes the maps that the fusion modules of a backbone get, until it is closed.

    These are the maps of a level before the exchange there; where streams exchange
    between the stages, they hold what came over at the levels before. Of several
    passes the first is noted.

    Args:
        backbone: See :func:`stream_names`.
    """

    def __init__(self, backbone: Any) -> None:
        self._names = stream_names(backbone)
        self._who = type(backbone).__name__
        self._levels: list[Any] = [None] * len(backbone.fusions)
        self._stops = [
            note_calls(fusion, self._note(i))
            for i, fusion in enumerate(backbone.fusions)
        ]

    def _note(self, level: int) -> Any:
        def note(args: tuple[Any, ...], output: Any) -> None:
            if self._levels[level] is None:
                self._levels[level] = args

        return note

    def stop(self) -> None:
        """Note no more."""
        for stop in self._stops:
            stop()

    def close(self) -> StreamMaps:
        """Stop, and return what was noted.

        Raises:
            ValueError: If the fusion modules were not called with one map per stream.
        """
        self.stop()
        levels, self._levels = self._levels, []
        counts = [0 if level is None else len(level[0]) for level in levels]
        if set(counts) != {len(self._names)}:
            raise ValueError(
                f'The fusion modules of {self._who} got {counts} maps at its levels, '
                f'expected one for each of the streams {list(self._names)}. Backbones '
                'that give them: '
                f'{", ".join(f"mmseg_xmodal.{name}" for name in STREAM_BACKBONES)}.'
            )
        feats = {
            name: [level[0][i] for level in levels]
            for i, name in enumerate(self._names)
        }
        masks = levels[0][1] if len(levels[0]) > 1 else None
        if masks is None:
            return StreamMaps(feats, None)
        return StreamMaps(feats, dict(zip(self._names, masks, strict=True)))
