"""What modules for exactly two streams share."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def check_two(module: object, num_streams: int) -> None:
    """Refuse anything but two streams, with the remedy.

    Args:
        module: The fusion module, for the message.
        num_streams: Streams that arrived.

    Raises:
        ValueError: If there are not two.
    """
    if num_streams == 2:
        return
    raise ValueError(
        f'{type(module).__name__} fuses exactly 2 streams, got {num_streams}. Merge '
        'modalities into one stream in the backbone config, such as '
        "streams=dict(rgb=['rgb'], x=['nir', 'dem']), or use "
        "fusion=dict(type='mmseg_xmodal.MeanFusion') or "
        "fusion=dict(type='mmseg_xmodal.ConcatFusion')."
    )


def partners(
    feats: Sequence[Tensor], valid: Sequence[Tensor] | None
) -> tuple[Tensor, Tensor]:
    """Give both maps as the partner may see them: zero where they are invalid.

    Shape:
        - feats: (B, C, h, w) each.
        - valid: (B, 1, h, w) each.
        - output: as ``feats``
    """
    if valid is None:
        return feats[0], feats[1]
    return feats[0] * valid[0], feats[1] * valid[1]
