"""A head for metric depth, or any other map of one real number per pixel.

Depth from a light decoder on shared features; losses come from the config
(:mod:`mmseg_xmodal.models.losses.depth`). Not a published network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.structures import BaseDataElement, PixelData
from torch import Tensor

from mmseg_xmodal.registry import MODELS

from ..layers.precision import at_least_single
from ..layers.view import scale_factor
from .level_head import LevelHead

_FORMS = ('log', 'sigmoid', 'linear')


@MODELS.register_module()
class DepthHead(LevelHead):
    """Regress one number per pixel, in the unit of the truth.

    How the raw output x becomes a value:

    * ``'log'``: exp(x), clamped to [``min_depth``, ``max_depth``]. The gradient passes
      the clamp, so that no pixel gets stuck behind it.
    * ``'sigmoid'``: ``min_depth`` + (``max_depth`` - ``min_depth``) * sigmoid(x)
    * ``'linear'``: ``mean`` + ``std`` * x, which may be negative (elevations).

    Args:
        in_channels: Channels of the levels that are read.
        output: ``'log'``, ``'sigmoid'`` or ``'linear'``.
        min_depth: Smallest value of the first two, in the unit of the truth, > 0.
        max_depth: Largest one. Truth beyond these limits is not trained on, as is usual
            for depth.
        mean: Mean of the truth, for ``'linear'``.
        std: Its standard deviation, for ``'linear'``, > 0.
        follows_scale: Whether the truth is divided by the factor by which training
            transforms resize the picture (an enlarged picture is a nearer one). Then
            predictions are multiplied by the factor of the test pipeline, the geometric
            mean of both directions. None = only for the target ``'gt_depth_map'``.
        loss_decode: Config of a loss, or a list of them; None =
            :class:`SILogLoss`, or :class:`MaskedL1Loss` for ``'linear'``.
        target: Field of the truth; it predicts ``pred_...`` instead of ``gt_...``.
        kwargs: ``in_index``, ``channels``, ``refine``, ``norm_cfg``, ``align_corners``
            and ``init_cfg``, see :class:`LevelHead`.

    Shape:
        - input: maps (B, in_channels[i], h_i, w_i), the largest first.
        - output: (B, 1, h_0, w_0)

    Raises:
        ValueError: If ``output`` is unknown, limits or ``std`` are out of range, or a
            loss of logarithms meets values that may be negative.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        output: str = 'log',
        min_depth: float = 0.1,
        max_depth: float = 80.0,
        mean: float = 0.0,
        std: float = 1.0,
        follows_scale: bool | None = None,
        loss_decode: dict | Sequence[dict] | None = None,
        target: str = 'gt_depth_map',
        **kwargs: Any,
    ) -> None:
        _check(output, min_depth, max_depth, std)
        default = 'MaskedL1Loss' if output == 'linear' else 'SILogLoss'
        super().__init__(
            in_channels,
            out_channels=1,
            loss_decode=loss_decode or dict(type=f'mmseg_xmodal.{default}'),
            target=target,
            **kwargs,
        )
        if output == 'linear':
            for loss in self.loss_decode:
                if getattr(loss, 'needs_positive', False):
                    raise ValueError(
                        f"DepthHead has output='linear' and {type(loss).__name__}, "
                        'which takes logarithms, but linear values may be negative. '
                        "Take output='log' or 'sigmoid', or another loss_decode."
                    )
        self.form = output
        self.min_depth, self.max_depth = min_depth, max_depth
        self.mean, self.std = mean, std
        self.follows_scale = (
            target == 'gt_depth_map' if follows_scale is None else follows_scale
        )

    def activate(self, output: Tensor) -> Tensor:
        """From raw output to values in the unit of the truth."""
        x = at_least_single(output)
        if self.form == 'linear':
            return self.mean + self.std * x
        if self.form == 'sigmoid':
            span = self.max_depth - self.min_depth
            return self.min_depth + span * x.sigmoid()
        value = x.detach().exp().clamp(self.min_depth, self.max_depth)
        # Forwards times 1; backwards exp() as if it were not clamped.
        return value * (x - x.detach() + 1)

    def compared(self, output: Tensor, size: tuple[int, int]) -> Tensor:
        """Values, interpolated as at inference."""
        return self.resize(self.activate(output), size)

    def truth(self, data_samples: Sequence[Any]) -> Tensor:
        """See :meth:`LevelHead.truth`; NaN also beyond the limits."""
        target = at_least_single(super().truth(data_samples))
        if self.form == 'linear':
            return target
        known = (target >= self.min_depth) & (target <= self.max_depth)
        return torch.where(known, target, torch.nan)

    def finish(
        self, output: Tensor, img_meta: Mapping[str, Any]
    ) -> dict[str, BaseDataElement]:
        """The field of the prediction, in the scale of the original image."""
        if self.follows_scale:
            # The geometric mean, as XModalResize: both undo each other.
            output = output * math.sqrt(math.prod(scale_factor(img_meta)))
        return {self.prediction: PixelData(data=output)}


def _check(output: str, low: float, high: float, std: float) -> None:
    if output not in _FORMS:
        raise ValueError(
            f'DepthHead has output={output!r}, expected one of {list(_FORMS)}. Change '
            'it in task_heads.'
        )
    if output != 'linear' and not 0 < low < high:
        raise ValueError(
            f'DepthHead has min_depth={low} and max_depth={high}, expected 0 < '
            "min_depth < max_depth. Change them in task_heads, or take output='linear' "
            'for values that may be negative.'
        )
    if output == 'linear' and not std > 0:
        raise ValueError(
            f'DepthHead has std={std}, expected a number above 0. Change it in '
            'task_heads.'
        )
