"""No fusion: the streams side by side, for a neck that lets them meet."""

from __future__ import annotations

from torch import Tensor, nn

from mmseg_xmodal.registry import MODELS

from ..layers.stacked_levels import stack_streams


@MODELS.register_module()
class StackStreams(nn.Module):
    """Concatenate the streams, then one validity channel per stream.

    The necks of this package take such maps (``num_streams``, ``validity``). Has no
    parameters.

    Args:
        channels: Ignored; every fusion module is built with it.
        validity: Whether the validity channels follow. They are ones where the input
            has no validity.
    """

    def __init__(self, channels: int | None = None, validity: bool = True) -> None:
        super().__init__()
        self.validity = validity

    def forward(
        self, feats: list[Tensor], valid: list[Tensor] | None = None
    ) -> tuple[list[Tensor], Tensor]:
        """Stack; the streams go on as they are.

        Shape:
            - feats: N maps (B, C, h, w).
            - valid: N maps (B, 1, h, w) in [0, 1], or None.
            - output: ``feats``, and (B, N * C + N, h, w), or (B, N * C, h, w) without
              validity.
        """
        return list(feats), stack_streams(feats, valid, self.validity)

    def extra_repr(self) -> str:
        """Show the setting in ``print(model)``."""
        return f'validity={self.validity}'
