"""A head for edges: one probability per pixel, from a light decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from mmseg_xmodal.registry import MODELS

from ..layers.precision import at_least_single
from .level_head import LevelHead

_IGNORED = 255


@MODELS.register_module()
class EdgeHead(LevelHead):
    """Predict the probability that a pixel lies on an edge.

    Args:
        in_channels: Channels of the levels that are read.
        loss_decode: Config of a loss, or a list of them; None =
            :class:`BalancedBCELoss` with the weight 0.95 for edges.
        target: Field of the truth (0, 1, or 255 = not labelled); it predicts
            ``pred_...`` instead of ``gt_...``.
        kwargs: ``in_index``, ``channels``, ``refine``, ``norm_cfg``, ``align_corners``
            and ``init_cfg``, see :class:`LevelHead`.

    Shape:
        - input: maps (B, in_channels[i], h_i, w_i), the largest first.
        - output: logits (B, 1, h_0, w_0)
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        loss_decode: dict | Sequence[dict] | None = None,
        target: str = 'gt_edge_map',
        **kwargs: Any,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels=1,
            loss_decode=loss_decode or dict(type='mmseg_xmodal.BalancedBCELoss'),
            target=target,
            **kwargs,
        )

    def activate(self, output: Tensor) -> Tensor:
        """From logits to probabilities."""
        return at_least_single(output).sigmoid()

    def compared(self, output: Tensor, size: tuple[int, int]) -> Tensor:
        """Logits at the size of the truth."""
        return self.resize(at_least_single(output), size)

    def truth(self, data_samples: Sequence[Any]) -> Tensor:
        """See :meth:`LevelHead.truth`.

        Raises:
            ValueError: If a pixel is neither 0 nor 1 nor 255.
        """
        target = super().truth(data_samples)
        wrong = (target != 0) & (target != 1) & (target != _IGNORED)
        if bool(wrong.any()):
            index = int(wrong.flatten(1).any(1).nonzero()[0])
            found = float(target[index][wrong[index]][0])
            raise ValueError(
                f'{self.target} of {data_samples[index].get("img_path")!r} holds '
                f'{found:g}, expected 0, 1 (edge) or {_IGNORED} (not labelled). Move '
                'and load edges as labels, without interpolation.'
            )
        return target
